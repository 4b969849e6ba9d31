"""The status line of a sweep on a pseudo-terminal, plain lines without one, and the index that grows meanwhile."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from small_jobs import GOOD, tiny_job
from tqdm.utils import disp_len

from wsolkit.common.progress import StatusLine, about
from wsolkit.sweep.scheduler import Sweep

SCRIPT = """
import sys
from pathlib import Path
import click
sys.path.insert(0, {tests!r})
from small_jobs import GOOD, tiny_job
from wsolkit.sweep.scheduler import Sweep
folder = Path({folder!r})
names = ("a first job with a name that is too long", "söwéep 鳥")
bodies = (GOOD, "raise RuntimeError('bird \\u9ce5 \\x1b[31mred')")
jobs = [tiny_job(folder, *pair) for pair in zip(names, bodies)]
Sweep(jobs, workers=1, say=click.echo).run()
"""


def on_a_terminal(command: list[str], columns: int, **environment: str) -> str:
    """Everything that a program writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | environment) as process:
        os.close(slave)
        found = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            found += piece
        process.wait()
    os.close(master)
    return found.decode("utf-8")


def on_screen(line: str) -> str:
    """What is seen of a line in which carriage returns lead back to its beginning."""
    seen = ""
    for part in line.split("\r"):
        seen = part + seen[len(part) :]
    return seen.strip()


@pytest.mark.slow
def test_one_line_is_rewritten_on_a_terminal(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    text = on_a_terminal([sys.executable, "-c", script], 50, PYTHONIOENCODING="utf-8")
    *lines, last = text.split("\r\n")
    assert [re.match(r"\[(\d)/2\]", on_screen(line))[1] for line in lines] == ["1", "2"], text
    assert on_screen(lines[1]).endswith("FAILED RuntimeError: bird 鳥  [31mred"), (
        "no escape sequence of an error gets through"
    )
    assert on_screen(last) == "", "nothing stays of the line at the end"
    live = [part.strip() for line in (*lines, last) for part in line.split("\r") if part.strip() and part[0] != "["]
    assert all(disp_len(part) <= 50 for part in live), live
    assert live[0].startswith("0 of 2 done; running a first job with a")
    assert re.fullmatch(r"1 of 2 done, about \d+ s left; running söwéep 鳥", live[-1]), live


def test_what_an_encoding_has_no_character_for_is_a_question_mark():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream.isatty = lambda: True
    said = []
    status = StatusLine(said.append, stream)
    status.show("running söwéep 鳥")
    status.say("FAILED 鳥")
    status.close()
    assert said == ["FAILED ?"] and b"\rrunning s?w?ep ?" in stream.buffer.getvalue()


def test_a_file_gets_only_what_stays():
    stream = io.StringIO()
    status = StatusLine(lambda text: print(text, file=stream), stream)
    status.show("1 of 2 done")
    status.say("[1/2] one")
    status.close()
    assert stream.getvalue() == "[1/2] one\n"


def test_a_terminal_that_is_gone_does_not_end_the_sweep():
    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(5, "Input/output error")

    status = StatusLine(lambda text: None, Gone())
    status.show("1 of 2 done")
    status.say("[1/2] one")
    status.close()


@pytest.mark.parametrize(
    "seconds,words",
    [
        (0.2, "about 1 s"),
        (40, "about 40 s"),
        (170, "about 3 min"),
        (5990, "about 1 h 40 min"),
        (7800, "about 2 h 10 min"),
    ],
)
def test_lengths_of_time(seconds, words):
    assert about(seconds) == words


def test_the_time_left_counts_earlier_runs_and_those_of_this_sweep(tmp_path):
    names = ("b/train gap", "b/cam", "c/train gap", "c/cam", "c/score_cam")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    jobs = [tiny_job(tmp_path, name, GOOD) for name in names]
    sweep = Sweep(jobs, workers=2, say=lambda line: None)

    def seconds_left(waiting, running, room):
        sweep.waiting, sweep.running = waiting, dict(enumerate(running))
        return sweep._seconds_left(room)

    assert seconds_left(jobs, [], 2) is None, "nothing is known"
    sweep.expected = {"b/train gap": 100.0, "b/cam": 10.0}
    # as long as the same on the other backbone; the last one as the mean of reports
    assert seconds_left(jobs[1:4], [], 2) == 100.0 == seconds_left(jobs[2:3], [], 2)
    assert seconds_left([jobs[1], jobs[3]], [], 1) == 20.0
    sweep.expected["c/cam"] = 30.0
    assert seconds_left([jobs[1], jobs[3]], [], 1) == 40.0
    sweep.began["b/cam"] = float("-inf")
    assert seconds_left([], [jobs[1]], 1) == 0.0, "it takes longer than it ever did"


def test_what_all_jobs_share_is_not_said_of_each(tmp_path):
    names = ("birds/b/train gap", "birds/b/cam", "seed-1/birds/b/cam")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    jobs = [tiny_job(tmp_path, name, GOOD) for name in names]
    sweep = Sweep(jobs, workers=2, say=lambda line: None)
    sweep.outcome = {names[0]: ""}
    sweep.running = dict(enumerate(jobs[1:]))
    assert sweep._progress(2) == "1 of 3 done; running cam, seed-1/cam"
    sweep.outcome = {names[0]: "", names[1]: "it broke"}
    sweep.running = {}
    assert sweep._progress(2) == "1 of 3 done, 1 failed"


def test_the_index_is_written_while_the_sweep_runs_but_not_all_the_time(tmp_path):
    pages = []
    sweep = Sweep([tiny_job(tmp_path, "one", GOOD)], say=lambda line: None, index=lambda: pages.append(1))
    sweep.indexed = 0
    sweep._write_index()
    assert pages == [], "nothing has finished"
    sweep.outcome = {"one": ""}
    sweep._write_index()
    sweep.outcome |= {"two": ""}
    sweep._write_index()
    assert pages == [1], "not again so soon"
    sweep.next_index = 0.0
    sweep._write_index()
    sweep.next_index = 0.0
    sweep._write_index()
    assert pages == [1, 1], "not without a new report"

    def fail():
        raise OSError("no space left")

    sweep.index, sweep.indexed, sweep.next_index = fail, 0, 0.0
    sweep._write_index()
