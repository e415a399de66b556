"""What `gra resume` submits, keeps and cancels, from what is left and what is in the queue."""

from __future__ import annotations

from dataclasses import replace

from gra_hpc.launch.cancel import last_workers
from gra_hpc.launch.legs import Leg, most_workers
from gra_hpc.launch.queue_gap import Gap, find_gap, spread
from gra_hpc.launch.slurm import Task
from gra_hpc.launch.submissions import Job
from gra_hpc.run.rounds import Step

NOW = "settings"


def task(job: int, index: int | None, state: str = "PENDING", reason: str = "Priority") -> Task:
    shown = f"{job}_{index}" if index is not None else str(job)
    return Task(shown, job, index, job, state, reason, "", None, 0, "me", "gra-x", "gra:x:t:0")


def workers(id_: str, places: list[int], round_: int = 1, settings: str = NOW) -> Job:
    return Job("workers", round_, places, id_, settings)


def merge(id_: str, round_: int = 1, settings: str = NOW) -> Job:
    return Job("merge", round_, [], id_, settings)


def gap(steps: list[Step], queue: list[tuple[Job, Task]], size: int = 100, wanted: int = 100, add: int = 0) -> Gap:
    """Every round is a leg of its own."""
    return find_gap([Leg((s,), min(wanted, len(s.shards))) for s in steps], queue, NOW, size, add)


def kinds(found: Gap) -> list[tuple[str, int, list[int]]]:
    return [(j.kind, j.round, j.shards) for j in found.jobs]


def test_a_run_that_was_not_begun() -> None:
    found = gap([Step(1, (0, 1, 2, 3, 4), 5), Step(2, (0, 1), 2)], [], size=2)
    assert kinds(found) == [
        ("workers", 1, [0, 1]), ("workers", 1, [2, 3]), ("workers", 1, [4]), ("merge", 1, []),
        ("workers", 2, [0, 1]), ("merge", 2, []),
    ]  # fmt: skip
    assert not found.cancel and not found.stay


def test_fewer_workers_than_shards_begin_far_from_each_other() -> None:
    found = gap([Step(1, tuple(range(10)), 10)], [], wanted=3)
    assert kinds(found) == [("workers", 1, [0, 3, 6]), ("merge", 1, [])]
    assert spread((4, 5, 9), 3) == [4, 5, 9]
    assert spread((), 0) == []


def test_typed_twice_it_changes_nothing() -> None:
    array, last = workers("7", [0, 1, 2]), merge("8")
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (array, task(7, 2)), (last, task(8, None))]
    found = gap([Step(1, (0, 1, 2), 3)], queue)
    assert found.jobs == found.cancel == []
    assert sorted(found.stay) == ["7_0", "7_1", "7_2", "8"]
    assert gap([Step(1, tuple(range(9)), 9)], queue, wanted=3).jobs == [], "as many as are wanted"


def test_plain_sbatch_s_tasks_are_left_alone() -> None:
    """`slurm/chain.sh` cannot note ids, and its options are not the run's settings."""
    array, last = Job("workers", 1, [0, 1, 2], plain=True), Job("merge", 1, plain=True)
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (last, task(8, None))]
    found = gap([Step(1, (0, 1), 3)], queue)
    assert found.jobs == found.cancel == []
    assert sorted(found.stay) == ["7_0", "7_1", "8"]
    more = gap([Step(1, (0, 1, 2), 3)], queue)
    assert kinds(more) == [("workers", 1, [0]), ("merge", 1, [])]
    assert more.cancel == ["8"]


def test_workers_that_are_lacking_are_submitted_and_the_merge_waits_for_old_and_new() -> None:
    array, last = workers("7", [0, 1, 2, 3]), merge("8")
    queue = [(array, task(7, 1, "RUNNING", "")), (array, task(7, 3)), (last, task(8, None, reason="Dependency"))]
    found = gap([Step(1, (0, 1, 2, 3), 4)], queue)
    assert kinds(found) == [("workers", 1, [0, 2]), ("merge", 1, [])]
    assert found.cancel == ["8"]
    assert found.alive == {1: ["7"]}


def test_workers_are_added_whatever_waits() -> None:
    array, last = workers("7", [0, 4], settings="old"), merge("8")
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (last, task(8, None, reason="Dependency"))]
    steps = [Step(1, tuple(range(8)), 8), Step(2, tuple(range(8)), 8)]
    found = gap(steps, queue, wanted=2, add=3)
    assert kinds(found) == [("workers", 1, [0, 2, 5]), ("merge", 1, []), ("workers", 2, [0, 4]), ("merge", 2, [])]
    assert (found.cancel, found.alive[1]) == (["8"], ["7"])
    assert kinds(gap(steps[:1], queue, wanted=2, add=9))[0] == ("workers", 1, [0, 1, 2, 4, 5, 6]), "one a shard at most"
    assert gap(steps[:1], queue, wanted=2).cancel == ["7_1", "8"], "without --add they are replaced"


def test_waiting_tasks_with_other_settings_are_replaced_and_running_ones_stay() -> None:
    array, last = workers("7", [0, 1], settings="old"), merge("8", settings="old")
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (last, task(8, None))]
    found = gap([Step(1, (0, 1), 2)], queue)
    assert kinds(found) == [("workers", 1, [0]), ("merge", 1, [])]
    assert (found.cancel, found.stay) == (["7_1", "8"], ["7_0"])
    assert found.alive == {1: ["7"]}


def test_what_a_killed_submitter_left_is_replaced() -> None:
    """Its id was never noted, so its pickles may not be in place: it may wait or run, and fail for lack of them."""
    queue = [(workers("", [0, 1]), task(7, 0, "RUNNING", "")), (workers("", [0, 1]), task(7, 1))]
    found = gap([Step(1, (0, 1), 2)], queue)
    assert kinds(found) == [("workers", 1, [0, 1]), ("merge", 1, [])]
    assert found.cancel == ["7_0", "7_1"]


def test_what_waits_for_ever_is_replaced() -> None:
    queue = [(merge("8"), task(8, None, reason="DependencyNeverSatisfied"))]
    assert kinds(gap([Step(1, (), 4)], queue)) == [("merge", 1, [])]
    queue = [(workers("7", [0]), task(7, 0, reason="launch_failed_requeued_held"))]
    found = gap([Step(1, (0,), 4)], queue)
    assert kinds(found) == [("workers", 1, [0]), ("merge", 1, [])]
    assert found.cancel == ["7_0"]


def test_workers_that_wait_for_more_than_is_left_are_cancelled() -> None:
    array, last = workers("7", [0, 1]), merge("8")
    queue = [(array, task(7, 0)), (array, task(7, 1)), (last, task(8, None))]
    found = gap([Step(1, (1,), 2)], queue)
    assert (found.jobs, found.cancel) == ([], ["7_1"])
    found = gap([], queue)
    assert (found.jobs, found.cancel) == ([], ["7_0", "7_1", "8"])


def test_a_merge_that_runs_too_early_is_followed_by_another() -> None:
    """It will fail, naming the shards that are missing: those submitted now need a merge of their own."""
    found = gap([Step(1, (2,), 4)], [(merge("8"), task(8, None, "RUNNING", ""))])
    assert kinds(found) == [("workers", 1, [2]), ("merge", 1, [])]
    assert found.stay == ["8"]
    found = gap([Step(1, (), 4)], [(merge("8"), task(8, None, "RUNNING", ""))])
    assert found.jobs == []


def test_a_new_merge_rearms_the_rounds_behind_it() -> None:
    """Their arrays depend on the merge that is replaced."""
    queue = [
        (workers("7", [0, 1]), task(7, 0, "RUNNING", "")),
        (merge("8"), task(8, None, reason="Dependency")),
        (workers("9", [0, 1], 2), task(9, 0, reason="Dependency")),
        (workers("9", [0, 1], 2), task(9, 1, reason="Dependency")),
        (merge("10", 2), task(10, None, reason="Dependency")),
    ]
    found = gap([Step(1, (0, 1), 2), Step(2, (0, 1), 2)], queue)
    assert kinds(found) == [("workers", 1, [0]), ("merge", 1, []), ("workers", 2, [0, 1]), ("merge", 2, [])]
    assert sorted(found.cancel) == ["10", "8", "9_0", "9_1"]


def test_a_merge_that_runs_holds_back_the_next_round() -> None:
    found = gap([Step(1, (), 2), Step(2, (0, 1), 2)], [(merge("8"), task(8, None, "RUNNING", ""))])
    assert kinds(found) == [("workers", 2, [0, 1]), ("merge", 2, [])]
    assert found.merges == {1: "8"}


def test_a_start_is_a_twentieth_of_a_worker_s_time() -> None:
    assert most_workers(work_s=19 * 60 * 100, start_s=60) == 100
    assert most_workers(work_s=60, start_s=60) == 1
    assert most_workers(work_s=60, start_s=0) > 50


def test_of_workers_those_that_wait_go_first_then_the_last_that_came() -> None:
    one, two, later = workers("7", [0, 1]), workers("9", [2, 3]), workers("11", [0], 2)
    queue = [
        (one, task(7, 0, "RUNNING", "")), (one, task(7, 1)), (two, task(9, 0, "RUNNING", "")),
        (two, task(9, 1, "RUNNING", "")), (merge("10"), task(10, None)), (later, task(11, 0)),
    ]  # fmt: skip
    chosen = [t for _, t in queue]
    assert [t.id for t in last_workers(queue, chosen)] == ["7_1", "9_1", "9_0", "7_0"]


TWO = Leg((Step(1, (0, 1), 2), Step(2, (0, 1), 2)), 2)
"""Two small rounds, which the same workers do."""
SECOND = Leg((Step(2, (0, 1), 2),), 2)
"""The same once the first is merged."""


def test_small_rounds_are_one_array_and_one_merge() -> None:
    found = find_gap([TWO], [], NOW, 100)
    assert [(j.kind, j.round, j.through, j.shards) for j in found.jobs] == [
        ("workers", 1, 2, [0, 1]), ("merge", 1, 2, []),
    ]  # fmt: skip
    array, last = (replace(job, id=id_) for job, id_ in zip(found.jobs, ("7", "8"), strict=True))
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (last, task(8, None, reason="Dependency"))]
    for leg in (TWO, SECOND):
        again = find_gap([leg], queue, NOW, 100)
        assert (again.jobs, again.cancel, sorted(again.stay)) == ([], [], ["7_0", "7_1", "8"])
        more = find_gap([leg], queue, NOW, 100, add=1)
        assert [(j.kind, j.round, j.through) for j in more.jobs] == [], "as many as there are shards"


def test_workers_that_would_end_with_another_round_are_replaced_where_they_wait() -> None:
    """Rounds have grown too large for it, or have become small enough, since they were submitted."""
    array, last = replace(workers("7", [0, 1]), last=2), replace(merge("8"), last=2)
    queue = [(array, task(7, 0, "RUNNING", "")), (array, task(7, 1)), (last, task(8, None, reason="Dependency"))]
    found = gap([*TWO.steps], queue)
    assert kinds(found) == [("workers", 1, [0]), ("merge", 1, []), ("workers", 2, [0, 1]), ("merge", 2, [])]
    assert (sorted(found.cancel), found.alive) == (["7_1", "8"], {1: ["7"], 2: []})
    one = [
        (workers("7", [0, 1]), task(7, 0, "RUNNING", "")),
        (workers("7", [0, 1]), task(7, 1)),
        (merge("8"), task(8, None)),
    ]
    found = find_gap([TWO], one, NOW, 100)
    assert [(j.kind, j.round, j.through) for j in found.jobs] == [("workers", 1, 2), ("merge", 1, 2)]
    assert len(found.jobs[0].shards) == 2, "the one that runs ends with round 1"
    assert (sorted(found.cancel), found.alive) == (["7_1", "8"], {2: ["7"]})


def test_workers_are_added_to_a_leg() -> None:
    leg = Leg((Step(1, (1,), 4), Step(2, (0, 1, 2, 3), 4)), 1)
    array, last = replace(workers("7", [0]), last=2), replace(merge("8"), last=2)
    queue = [(array, task(7, 0, "RUNNING", "")), (last, task(8, None, reason="Dependency"))]
    assert find_gap([leg], queue, NOW, 100).jobs == []
    found = find_gap([leg], queue, NOW, 100, add=2)
    assert kinds(found) == [("workers", 1, [1, 1]), ("merge", 1, [])], "the second round has shards for them"
    assert (found.cancel, found.alive) == (["8"], {2: ["7"]})
