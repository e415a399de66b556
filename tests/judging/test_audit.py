"""People in the loop: the page in a real browser, and what is made of their labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import GraError
from gra_hpc.judging import audit, labels
from gra_hpc.judging.audit import draw, page
from gra_hpc.judging.labels import Labels, figures
from gra_hpc.models import special_tokens
from gra_hpc.records import DOMAINS
from gra_hpc.release.build import build
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.run import Run
from gra_hpc.sources.gold import read as read_gold
from gra_hpc.storage import read_json
from tests.judging.reviewed import HOSTILE, worth
from tools.docs.chromium import CHROMIUM, browser


def stored(run: Run) -> dict[str, dict[str, Any]]:
    table = pq.read_table(next(run.round(1).shards.glob("*/samples-*.parquet")))
    return {row["id"]: row for row in table.to_pylist()}


def exported(file: Path, run: Run, who: str = "ada", size: int = 60, **verdicts: str) -> Path:
    """A file as the page makes it."""
    drawn = draw(run, size)
    about = {"format": 1, "audit": drawn.audit, "size": size, "seed": 0, "run": run.name, "who": who}
    file.write_text(json.dumps(about | {"labels": {i: {"verdict": v} for i, v in verdicts.items()}}))
    return file


def by_worth(run: Run, bound: float, size: int = 60) -> dict[str, str]:
    """What a person says who keeps samples from a worth on."""
    rows = stored(run)
    return {i: "keep" if worth(rows[i]["instruction"]) >= bound else "reject" for i in draw(run, size).ids}


def test_the_sample_is_half_and_half_and_the_same_each_time(audited: Run) -> None:
    rows, drawn = stored(audited), draw(audited, 40)
    assert drawn == draw(audited, 40) and drawn.ids != draw(audited, 40, seed=1).ids
    accepted = [rows[i]["status"] == "accepted" for i in drawn.ids]
    assert sum(accepted) == 20 and len(set(drawn.ids)) == 40 and accepted != sorted(accepted)
    assert drawn.population[True] == sum(r["status"] == "accepted" for r in rows.values())
    assert {rows[i]["domain"] for i in drawn.ids} == {"math", "coding", "qa"}
    assert len(draw(audited, 10_000).ids) == 120


def test_an_audit_says_how_many_of_each_half_and_how_many_there_are(audited: Run, tmp_path: Path) -> None:
    there = draw(audited, 40).population
    said = next(audit.write(audited, 40, 0, tmp_path / "a.html"))
    assert said.endswith(f"a.html: 40 samples, 20 of {there[True]} accepted and 20 of {there[False]} rejected")
    said = next(audit.write(audited, 1000, 0, tmp_path / "b.html"))
    assert said.endswith(
        "b.html: 120 samples, "
        + " and ".join(f"{n} of {n} {w}" for n, w in ((there[True], "accepted"), (there[False], "rejected")))
        + "; 1000 were asked for, and no more have a reviewed response"
    )


def test_the_page_is_blind_and_nothing_in_it_is_obeyed(audited: Run) -> None:
    text = page(audited, draw(audited, 40))
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert {k for s in data["samples"] for k in s} == {"id", "domain", "context", "instruction", "response"}
    assert HOSTILE.split("\u202e")[0] in data["samples"][0]["instruction"] and "\u202e" not in text
    assert text.count("<script") == 2 and "owned'</script>" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)


def test_figures_of_a_person_who_is_stricter(audited: Run) -> None:
    """What people keep from 9 on: the committee, at 8, is lenient, and another threshold agrees better."""
    drawn = draw(audited, 60)
    person = Labels("ada", drawn.audit, 60, 0, by_worth(audited, 9.0))
    found = figures(audited, drawn, [person])
    rows = stored(audited)
    real = np.mean([worth(r["instruction"]) >= 9.0 for r in rows.values()])
    share = found["corrected_share"]
    assert share["low"] <= real <= share["high"] and share["value"] < found["accepted_share"]
    assert found["committee"]["sensitivity"]["value"] > 0.9 > found["committee"]["specificity"]["value"]
    t = found["threshold"]
    assert t["now"] == 8 and 8.25 <= t["chosen"]["value"] <= 9.5 and t["chosen_agrees"] > t["agrees"]
    assert set(found["judges"]) <= set(audited.config.committee) and found["between_people"] is None
    assert found == figures(audited, drawn, [person])


def test_weights_make_up_for_the_halves(audited: Run) -> None:
    """The whole run and a part of it give the same shares, but for chance."""
    whole, part = draw(audited, 120), draw(audited, 60)
    exact = figures(audited, whole, [Labels("a", whole.audit, 120, 0, by_worth(audited, 8.5, 120))])
    about = figures(audited, part, [Labels("a", part.audit, 60, 0, by_worth(audited, 8.5))])
    for key in ("agreement", "corrected_share"):
        assert about[key]["low"] <= exact[key]["value"] <= about[key]["high"]
    assert exact["corrected_share"]["value"] == pytest.approx(exact["kept"] / 120, abs=1e-4)


def test_two_people_and_their_own_agreement(audited: Run) -> None:
    drawn, said = draw(audited, 60), by_worth(audited, 8.5)
    other = dict(said)
    for i in drawn.ids[:6]:
        other[i] = "reject" if said[i] == "keep" else "keep"
    other[drawn.ids[-1]] = "unsure"
    people = [Labels("a", drawn.audit, 60, 0, said), Labels("b", drawn.audit, 60, 0, other)]
    found = figures(audited, drawn, people)
    between = found["between_people"]
    assert (between["samples"], between["agreement"]) == (59, round(53 / 59, 4)) and 0.5 < between["alpha"] < 1
    assert found["judged"] == 54, "those on which they differ count for neither"
    assert any(line.startswith("among them    agree on 0.90 of 59") for line in labels.lines(found))


def test_labels_reach_the_card(audited: Run, tmp_path: Path) -> None:
    before = build(audited)
    assert "No human has checked" in (before / "README.md").read_text()
    file = exported(tmp_path / "a.json", audited, **by_worth(audited, 8.5))
    said = list(labels.read(audited, [file]))
    assert any(line.startswith("committee     agrees with people on 0.") for line in said)
    release = build(audited)
    card = " ".join((release / "README.md").read_text().split())
    assert "One person judged 60 samples without knowing its verdict" in card and "No human" not in card
    assert verify(release) == [] and read_json(release / "manifest.json")["people"]["kept"] > 0
    audited.audit.unlink()


def test_what_people_say_becomes_gold_questions(audited: Run, tmp_path: Path) -> None:
    verdicts = by_worth(audited, 8.0, 20) | {draw(audited, 20).ids[0]: "unsure"}
    file = exported(tmp_path / "ada.json", audited, size=20, **verdicts)
    gold = tmp_path / "gold.jsonl"
    said = list(labels.read(audited, [file], gold))
    assert any(line.startswith("19 gold questions in ") for line in said)
    questions = read_gold(str(gold), DOMAINS, 20_000, special_tokens.COMMON)
    assert sorted(q.keep for q in questions) == sorted(v == "keep" for v in verdicts.values() if v != "unsure")
    assert all(q.keep == (worth(q.instruction) >= 8) and q.domain in DOMAINS for q in questions)
    with pytest.raises(GraError, match="exists"):
        list(labels.read(audited, [file], gold))


def test_files_that_are_none_are_refused(audited: Run, tmp_path: Path) -> None:
    good = exported(tmp_path / "a.json", audited, **by_worth(audited, 8.5))
    broken = tmp_path / "b.json"
    for change, said in (
        ({"format": 2}, "not labels of an audit"),
        ({"who": 3}, "not labels of an audit"),
        ({"labels": {"x": {"verdict": "maybe"}}}, "a label is none of keep, reject, unsure"),
        ({"audit": "0" * 32, "who": "b"}, "of another audit"),
        ({"labels": {}}, "no sample that people kept or rejected"),
    ):
        broken.write_text(json.dumps(json.loads(good.read_text()) | change))
        with pytest.raises(GraError, match=said):
            list(labels.read(audited, [broken]))
    with pytest.raises(GraError, match="two files of one person"):
        list(labels.read(audited, [good, good]))
    broken.write_text("no JSON")
    for wrong in (broken, audited.plan_file, tmp_path):
        with pytest.raises(GraError, match="-> give the file that the page of gra audit exports: key e"):
            list(labels.read(audited, [wrong]))
    with pytest.raises(GraError, match="no such file"):
        list(labels.read(audited, [tmp_path / "none.json"]))


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_twenty_samples_by_keyboard_in_a_browser(audited: Run, tmp_path: Path) -> None:
    """Judged by keys, the page loaded again in the middle, exported, read back."""
    file, downloads = tmp_path / "audit.html", tmp_path / "downloads"
    said = list(audit.write(audited, 20, 0, file))
    assert said[0].startswith(f"{file}: 20 samples, 10 of ")
    with browser(tmp_path / "profile") as b:
        b.open(file, downloads)
        b.key("e")
        assert "name" in b.value("document.getElementById('where').textContent")
        b.write("ada")
        b.key("Escape")
        given = []
        for i in range(20):
            text = b.value("document.getElementById('instruction').textContent")
            given.append("k" if worth(text) >= 8.5 else "r")
            if i == 3:
                b.key("n")
                b.write("bad")
                b.key("Escape")
            b.key("u" if i == 7 else given[-1])
            if i == 9:
                b.reload()
                while "11 of 20" not in b.value("document.getElementById('where').textContent"):
                    # a browser hands on what a page stored a moment later: loaded again before, it shows what was
                    # before, for ever; then it is judged anew, as a person would
                    if "10 of 20" in b.value("document.getElementById('where').textContent"):
                        b.key(given[-1])
                    b.reload()
                b.key("ArrowLeft")
                assert "10 of 20" in b.value("document.getElementById('where').textContent")
                b.key("ArrowRight")
        assert "all done" in b.value("document.getElementById('where').textContent")
        assert b.value("document.title") == "run – audit" and b.complaints == []
        b.screenshot(tmp_path / "page.png")
        b.key("e")
        done = b.wait("Browser.downloadWillBegin")
        while b.wait("Browser.downloadProgress")["state"] == "inProgress":
            pass
    found = read_json(downloads / done["suggestedFilename"])
    assert done["suggestedFilename"].endswith("-ada.json") and found["who"] == "ada"
    names = {"k": "keep", "r": "reject"}
    wanted = ["unsure" if i == 7 else names[key] for i, key in enumerate(given)]
    drawn = draw(audited, 20)
    assert [found["labels"][i]["verdict"] for i in drawn.ids] == wanted
    assert found["labels"][drawn.ids[3]]["note"] == "bad"
    people = Labels.read(downloads / done["suggestedFilename"])
    assert figures(audited, drawn, [people])["judged"] == 19
