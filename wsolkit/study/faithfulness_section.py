"""The optional section of a report: does the network's answer depend on the pixels that the map names?"""

from __future__ import annotations

from wsolkit import figures
from wsolkit.evaluation.evaluate import Evaluation
from wsolkit.evaluation.faithfulness import faithfulness_table, measure_faithfulness
from wsolkit.figures.charts import faithfulness_curves
from wsolkit.runs.run import Run

TEXT = """
## Does the network look where the map says?

Boxes ask whether the map finds the object. These curves ask whether it names the pixels that the network's answer rests on.
**Deletion** replaces pixels by the mean colour, those of highest score first: the probability of the class should fall early, and
the area under the curve be small. **Insertion** puts them back in the same order, into a blurred image: it should rise early, and
the area be large (Petsiuk et al., *RISE*, BMVC 2018). **ROAD** fills removed pixels in from their neighbours and compares taking
the least relevant ones with taking the most relevant ones: large is good (Rong et al., ICML 2022). A random map and a Gaussian in
the centre, which know nothing of the network, say what is much and what is little.

What the curves cannot tell: a half-grey or blurred picture is unlike any training image, and part of the answer is to that
strangeness. Other fillings give other numbers, so compare maps on one network only. And a faithful map may be a poor box: where
the network looks at a beak alone, the beak is the faithful answer.
"""


def show_faithfulness(run: Run, result: Evaluation) -> None:
    """Deletion, insertion and ROAD of a result's maps, for as many images as the parameter `faithfulness` says (0 leaves
    the section out): text, curves and table in the notebook; the numbers go into metrics.json with the result."""
    if not run.config.faithfulness:
        return
    from IPython.display import Markdown, display

    display(Markdown(TEXT))
    images = min(run.config.faithfulness, result.n_images)
    maps = {result.method: result.maps["test"]}
    measured = measure_faithfulness(
        run.model(result.variant), run.dataset("test"), maps, limit=images, seed=run.config.seed
    )
    count = len(next(iter(measured.values())))
    figures.show(
        faithfulness_curves(measured),
        alt=f"Deletion and insertion curves of {', '.join(measured)}: mean class probability against the share of pixels",
        caption=f"Mean over {count} test images with 95 % bootstrap bands.",
    )
    table = faithfulness_table(measured)
    result.faithfulness = table.to_dict("index")
    for name in ("deletion", "insertion", "road"):
        ends = zip(table[name], table.pop(f"{name}_low"), table.pop(f"{name}_high"), strict=True)
        table[name] = [f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in ends]
    titles = {"deletion": "deletion area", "insertion": "insertion area", "road": "ROAD", "n": "images"}
    display(table.rename(columns=titles))
