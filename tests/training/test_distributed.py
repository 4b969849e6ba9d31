"""The metric classes on one process and on two gloo processes over loopback: the same bits, however images are shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from wsolkit.evaluation import metrics

LIMIT = 90  # seconds after which processes that hang are ended
N, K = 23, 9
RNG = np.random.default_rng(17)
LOGITS, LABELS = RNG.normal(size=(N, K)), RNG.integers(K, size=N)
IOUS = np.where(RNG.random(N) < 0.2, 0.5, RNG.random(N))
CURVES = RNG.random((N, 1)) * RNG.random((N, 100))
MAPS = RNG.random((N, 12, 10))
MASKS = RNG.choice(np.array([0, 1, 255], np.uint8), (N, 12, 10))

CASES = {  # name -> class, its options, those of the function, function, arrays
    "TopKCls": (metrics.TopKCls, {"k": 3}, {"k": 3}, metrics.top_k_cls, (LOGITS, LABELS)),
    "GTKnownLoc": (metrics.GTKnownLoc, {"delta": 0.5}, {"delta": 0.5}, metrics.gt_known_loc, (IOUS,)),
    "TopKLoc": (metrics.TopKLoc, {"k": 5}, {"k": 5}, metrics.top_k_loc, (LOGITS, LABELS, IOUS)),
    "MaxBoxAcc": (metrics.MaxBoxAcc, {"interval": 0.01}, {}, metrics.max_box_acc, (CURVES,)),
    "MaxBoxAccV2": (metrics.MaxBoxAccV2, {"interval": 0.01}, {}, metrics.max_box_acc_v2, (CURVES,)),
    "PxAP": (metrics.PxAP, {"interval": 0.01}, {"interval": 0.01}, metrics.pxap, (MAPS, MASKS)),
}
SHARES = {  # the images of process 0 and of process 1, in batches
    "uneven": ([range(0, 3)], [range(3, 14), range(14, N)]),
    "interleaved": ([[0, 22], [1], [20, 3, 4, 5]], [[2], [*range(6, 20), 21]]),
    "one process without images": ([], [range(0, N)]),
    "one process with an empty batch": ([range(0, N)], [[]]),
}


def computed(name: str, batches) -> str:
    """The metric over these batches, all bits of it; in a process group over those of the other processes too."""
    kind, options, _, _, arrays = CASES[name]
    metric = kind(**options)
    for rows in batches:
        metric.update(*(torch.from_numpy(array[list(rows)]) for array in arrays))
    value = metric.compute()
    assert value.dtype == torch.float64
    return value.item().hex()


def worker(rank: int, rendezvous: str, answer: str) -> None:
    for variable in ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"):
        os.environ[variable] = "lo0" if sys.platform == "darwin" else "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=LIMIT)
    )
    values = {share: {name: computed(name, parts[rank]) for name in CASES} for share, parts in SHARES.items()}
    values["nothing"] = {name: computed(name, []) for name in CASES}
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    Path(answer).write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each of two processes computed: [rank][share][metric] -> the value's bits."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch is built without torch.distributed or without gloo")
    folder = tmp_path_factory.mktemp("group")
    files, logs = ([folder / f"{rank}.{kind}" for rank in range(2)] for kind in ("json", "log"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    processes = []
    try:
        for rank in range(2):
            command = [sys.executable, __file__, str(rank), (folder / "rendezvous").as_uri(), str(files[rank])]
            with open(logs[rank], "wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
        end = time.monotonic() + LIMIT
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break  # one has failed: the other would wait for it
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    words = [log.read_text(errors="replace") for log in logs]
    assert codes == [0, 0], f"exit codes {codes} (None: ended after {LIMIT} s)\n" + "\n".join(words)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", SHARES)
def test_two_processes_give_the_bits_of_one(answers, share, name):
    _, _, options, function, arrays = CASES[name]
    expected = computed(name, [range(N)])
    assert expected == float(function(*arrays, **options)).hex()
    assert [answer[share][name] for answer in answers] == [expected] * 2
    assert sorted(row for part in SHARES[share] for rows in part for row in rows) == list(range(N)), "each image once"


@pytest.mark.parametrize("name", CASES)
def test_no_image_anywhere_is_nan(answers, name):
    assert [answer["nothing"][name] for answer in answers] == ["nan"] * 2


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2], sys.argv[3])
