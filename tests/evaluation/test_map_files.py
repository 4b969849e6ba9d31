"""Score maps of others: names, shapes, ranges; every fault of a folder in one error."""

from __future__ import annotations

import numpy as np
import pytest

from wsolkit.evaluation.file_evaluation import export_score_maps, open_score_maps, read_predictions
from wsolkit.localisation.localise import ScoreMaps

IDS = [f"bird/{number}.jpg" for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in IDS:
        path = tmp_path / "maps" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.random((16, 16)))
    return tmp_path / "maps"


def test_maps_of_the_frame_in_the_unit_range_are_ready(folder):
    maps, ready, problems = open_score_maps(folder, IDS, 16)
    assert ready and problems == [] and len(maps) == 6 and maps[2].shape == (16, 16)
    assert not open_score_maps(folder, IDS, 20)[1]  # they must be grown


def test_one_map_outside_the_unit_range_makes_all_of_them_raw(folder):
    np.save(folder / "bird/3.jpg.npy", np.full((16, 16), 2.0) * np.eye(16))
    _, ready, problems = open_score_maps(folder, IDS, 16)
    assert not ready and problems == []


def test_the_name_may_lack_the_images_suffix(folder):
    (folder / "bird/1.jpg.npy").rename(folder / "bird/1.npy")
    assert open_score_maps(folder, IDS, 16)[2] == []
    problems = open_score_maps(folder, [*IDS, "bird/1.png"], 16)[2]
    assert problems == ["bird/1.npy: the map of 2 images"]


def test_every_fault_is_found_at_once(folder):
    (folder / "bird/0.jpg.npy").unlink()
    np.save(folder / "bird/1.jpg.npy", np.where(np.eye(16), np.nan, 0.5))
    np.save(folder / "bird/2.jpg.npy", np.zeros((1, 16, 16)))
    np.save(folder / "bird/3.jpg.npy", np.zeros((12, 16)))
    np.save(folder / "bird/4.jpg.npy", np.array([["a", "b"]]))
    (folder / "bird/5.jpg.npy").write_bytes(b"\x93NUMPY torn")
    np.save(folder / "stranger.npy", np.zeros((16, 16)))
    problems = "\n".join(open_score_maps(folder, IDS, 16)[2])
    for line in (
        "bird/0.jpg: no map bird/0.jpg.npy",
        "bird/1.jpg: 16 of 256 values are NaN or infinite",
        "bird/2.jpg: shape (1, 16, 16), expected (height, width)",
        "bird/4.jpg: real numbers are expected, got <U1",
        "bird/5.jpg: not a readable .npy file",
        "stranger.npy: a map of no image of the metadata",
    ):
        assert line in problems
    assert "stranger" not in "\n".join(open_score_maps(folder, IDS, 16, subset=True)[2])


def test_one_odd_shape_is_a_fault_unless_it_is_the_images_own(folder):
    np.save(folder / "bird/3.jpg.npy", np.eye(12, 20))
    assert open_score_maps(folder, IDS, 16)[2] == [
        "bird/3.jpg: shape (12, 20), expected (16, 16) like most of the maps"
    ]
    assert open_score_maps(folder, IDS, 16, {"bird/3.jpg": (20, 12)})[2] == []


def test_pickled_objects_are_not_loaded(folder):
    np.save(folder / "bird/0.jpg.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "not a readable .npy file" in open_score_maps(folder, IDS, 16)[2][0]


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_score_maps(tmp_path / "none", IDS, 16)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_score_maps(tmp_path / "file", IDS, 16)


def test_predictions_with_and_without_header_and_ranks(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("".join(f"{name},{number}\n" for number, name in enumerate(IDS)))
    predicted, problems = read_predictions(path, IDS[::-1])
    assert predicted[:, 0].tolist() == [5, 4, 3, 2, 1, 0] and problems == []
    path.write_text("id,best,second\r\n" + "".join(f"{name},{number},9\r\n" for number, name in enumerate(IDS)))
    predicted, problems = read_predictions(path, IDS)
    assert predicted.tolist() == [[number, 9] for number in range(6)] and problems == []


def test_every_fault_of_predictions_is_found(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("bird/0.jpg,1\nbird/1.jpg,x\nbird/2.jpg,1,2\nbird/0.jpg,2\nother,3\n")
    problems = "\n".join(read_predictions(path, IDS)[1])
    assert "line 2: 'bird/1.jpg,x'" in problems and "line 3" in problems
    assert "line 4: a second line of bird/0.jpg" in problems and "bird/5.jpg: no line in" in problems
    path.write_text("")
    assert len(read_predictions(path, IDS)[1]) == 6
    with pytest.raises(FileNotFoundError, match="path,label"):
        read_predictions(tmp_path / "none.csv", IDS)


def test_export_is_read_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 7)).astype(np.float32)
    maps = ScoreMaps(IDS, np.arange(6), logits, rng.normal(size=(6, 7, 7)).astype(np.float32))
    export_score_maps(maps, tmp_path)
    back, ready, problems = open_score_maps(tmp_path, IDS, 32)
    assert problems == [] and not ready and all(np.array_equal(a, b) for a, b in zip(back, maps.maps, strict=True))
    assert np.array_equal(read_predictions(tmp_path / "predictions.csv", IDS)[0][:, 0], logits.argmax(axis=1))
    export_score_maps(maps, tmp_path / "final", 32)
    back, ready, problems = open_score_maps(tmp_path / "final", IDS, 32)
    assert ready and back[0].dtype == np.float64 and back[0].min() == 0 and back[0].max() == 1
    with pytest.raises(ValueError, match="no paths below a folder"):
        export_score_maps(ScoreMaps(["../x"], np.zeros(1, int), logits[:1], maps.maps[:1]), tmp_path)


def test_links_to_folders_are_followed_once(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/bird").symlink_to(folder / "bird")
    (folder / "bird/again").symlink_to(folder)
    assert open_score_maps(tmp_path / "linked", IDS, 16)[2] == []


def test_rounding_does_not_make_a_map_raw(folder):
    np.save(folder / "bird/3.jpg.npy", np.eye(16) * (1 + 1e-7))
    assert open_score_maps(folder, IDS, 16)[1]


def test_ids_with_commas_survive_the_export(tmp_path):
    logits = np.eye(2, 3, dtype=np.float32)
    maps = ScoreMaps(["a,b.jpg", 'c "d".jpg'], np.arange(2), logits, np.random.default_rng(0).random((2, 4, 4)))
    export_score_maps(maps, tmp_path)
    predicted, problems = read_predictions(tmp_path / "predictions.csv", maps.ids)
    assert problems == [] and predicted[:, 0].tolist() == [0, 1]
    assert open_score_maps(tmp_path, maps.ids, 8)[2] == []
