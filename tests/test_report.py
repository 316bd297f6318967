"""The report: every figure comes from report.json, nothing is executed or fetched, missing parts are left out."""

from __future__ import annotations

import copy
import functools
import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from report_data import Json, Path, leaves, make_report, replaced, terminal, without

from channelcut.core.errors import UserError
from channelcut.report import render_html
from channelcut.report.charts import Axis
from channelcut.report.markup import Html, printable, tag
from channelcut.report.numbers import change, comparison, scaled, significant


@functools.cache
def whole_page() -> str:
    return render_html(make_report())


@pytest.fixture
def report() -> Json:
    return make_report()


LEAVES = [
    (path, value)
    for path, value in leaves(make_report())
    if path not in {("format",), ("measurement", "format")}  # read, checked, not shown
]


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=[".".join(map(str, p)) for p, _ in LEAVES])
def test_every_value_of_the_report_reaches_the_page(report: Json, path: Path, value: Any) -> None:
    if value is None:
        changed: Any = 0
    elif isinstance(value, bool):
        changed = not value
    elif isinstance(value, str):
        changed = f"{value}-zq"
    else:
        # The interval of a ratio has to stay one: its low end goes down, everything else goes up.
        changed = value * 0.9 if path[-1] == "ratio_low" else value * 1.25 + (1 if isinstance(value, int) else 0)
        changed = int(changed) if isinstance(value, int) else changed
    after = render_html(replaced(report, path, changed))
    assert after != whole_page()
    if isinstance(value, str):
        assert html.escape(changed) in after


def test_figures_are_those_of_the_report(report: Json) -> None:
    page = render_html(report)
    for figure in (
        "50.0 % fewer MACs and 40.7 % fewer parameters.",
        "1.52 G", "3.04 G", "1.53 M", "2.57 M",
        "−43.8 %",  # groups: 64 + 2 * 32 = 128 channels before, 40 + 2 * 16 = 72 after
        "64 → 40", "96 → 56", "5.85 MiB", "9.76 MiB", "3e-14", "1e-9", "0.630 s", "3.21 MiB", "3.40 s in all",
        "2 layers lost output channels, 2 lost input channels",
        "hard-coded width (2 places)", "network output (1 place)",
    ):  # fmt: skip
        assert figure in page, figure


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("cost", "after", "macs"), 1.1e9, "1.52 G", "1.10 G"),
        (("cost", "before", "params"), 5_000_000, "2.57 M", "5.00 M"),
        (("groups", 1, "kept"), 24, ">16<", ">24<"),
        (("layers", 0, "after"), [48, 3], "64 → 40", "64 → 48"),
        (("pins", 0, "channels"), 84, ">80<", ">84<"),
        (("proof", "signal"), 7.7, "4.40", "7.70"),
        (("proof", "max_relative_error"), 5e-15, "3e-14", "5e-15"),
        (("proof", "tolerance"), 2e-9, "1e-9", "2e-9"),
        (("proof", "checks"), 288, ">144<", ">288<"),
        (("measurement", "ratio"), 0.605, "1.64", "1.65"),
        (("measurement", "ratio_low"), 0.595, "0.600", "0.595"),
        (("onnx", "pruned", "size_bytes"), 2**22, "5.85 MiB", "4.00 MiB"),
        (("engines", 0, "build_s"), 1.5, "0.630 s", "1.50 s"),
        (("seconds", "couple"), 2.2, "3.40 s", "4.50 s"),
    ],
)
def test_a_changed_number_leaves_no_trace_of_the_old_one(
    report: Json, path: Path, value: Any, old: str, new: str
) -> None:
    report["layers"][2]["before"] = report["layers"][2]["after"] = [72, 17]  # 80 is the channels of one pin alone
    page, changed = render_html(report), render_html(replaced(report, path, value))
    assert old in page and old not in changed and new in changed


def test_medians_and_percentiles_are_recomputed_from_the_samples(report: Json) -> None:
    report["measurement"]["baseline"]["samples_ms"] = [float(t) for t in range(1, 102)]  # median 51, p90 91, p99 100
    report["measurement"]["baseline"]["items_per_call"] = 4
    row = re.search(r'<th scope="row">original</th>(.*?)</tr>', render_html(report))
    assert row is not None
    cells = re.findall(r">([^<]+)</td>", row.group(1))
    assert cells == ["51.0", "51.0", "91.0", "96.0", "100", "57.5 %", "78.4 /s", "101"]


@pytest.mark.parametrize(
    ("interval", "word", "badge"),
    [
        (
            (0.61, 0.60, 0.63),
            "Faster: pruned is 1.64 times as fast as original (95 % interval 1.59 to 1.67).",
            "✓ Faster",
        ),
        ((1.05, 1.02, 1.08), "Not faster: pruned takes 1.050 times as long as original", "✗ Not faster"),
        ((0.99, 0.97, 1.01), "Undecided: pruned takes 0.990 times as long as original", "? Undecided"),
        ((0.99, 0.97, 1.00), "Undecided", "? Undecided"),  # an interval that touches 1 shows nothing
        ((1.00, 1.00, 1.00), "Not faster", "✗ Not faster"),
    ],
)
def test_verdict_says_what_the_interval_allows(
    report: Json, interval: tuple[float, ...], word: str, badge: str
) -> None:
    report["measurement"].update(zip(("ratio", "ratio_low", "ratio_high"), interval, strict=True))
    page, printed = render_html(report), " ".join(terminal(report).split())
    assert word in page and badge in page and word in printed
    others = {"✓ Faster", "✗ Not faster", "? Undecided", "– Latency not measured"} - {badge}
    assert not any(other in page for other in others)


def test_more_of_something_is_not_sold_as_a_gain(report: Json) -> None:
    report["cost"]["after"] = {"macs": 3.344e9, "params": 2572280}
    page = render_html(report)
    assert "10.0 % more MACs and as many parameters as before." in page
    assert "+10.0 %" in page


def test_failed_proof_is_said_first_and_in_full(report: Json) -> None:
    report["proof"].update(passed=False, failures=["stem differs by 0.3", "head differs by 2"], max_relative_error=0.3)
    page, printed = render_html(report), terminal(report)
    assert "✗ Proof failed" in page and "✓ Proof passed" not in page
    for text in ("stem differs by 0.3", "head differs by 2"):
        assert text in page and text in printed
    assert "failed: 144 comparisons" in printed


@pytest.mark.parametrize("passed", [None, "yes", 1, 0])
def test_only_true_is_a_passed_proof(report: Json, passed: object) -> None:
    report["proof"]["passed"] = passed
    assert "✗ Proof failed" in render_html(report)


class Elements(HTMLParser):
    """Collects elements and attributes, and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser.found


HOSTILE = (
    '</title></svg><script>alert(1)</script><img src=x onerror=\'alert(2)\'>" onload="alert(3)" x="&lt;$title${body}'
)


def test_hostile_text_stays_text_wherever_it_stands(report: Json) -> None:
    expected = elements(render_html(report))
    hostile = copy.deepcopy(report)
    for path, value in leaves(report):
        if isinstance(value, str):
            hostile = replaced(hostile, path, HOSTILE)
    hostile["options"] = {HOSTILE: HOSTILE}
    hostile["seconds"] = {HOSTILE: 1.0}
    hostile["environment"] = {HOSTILE: {HOSTILE: [HOSTILE]}}
    page = render_html(hostile)
    found = elements(page)
    assert {name for name, _ in found} <= {name for name, _ in expected}
    assert not [a for _, attributes in found for a in attributes if a.startswith("on") or a in {"src", "style"}]
    assert html.escape(HOSTILE) in page


def test_page_refers_to_nothing_outside_itself(report: Json) -> None:
    page = render_html(report)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe|<img|//", page, re.IGNORECASE)
    for _, attributes in elements(page):
        for name in ("href", "src", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "default-src 'none'" in page


def test_page_is_accessible(report: Json) -> None:
    found = elements(render_html(report))
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    for name, attributes in found:
        if name == "svg":
            assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    names = [name for name, _ in found]
    assert names.count("h1") == 1 and names.count("table") == names.count("caption") > 0
    assert dict(found)["html"]["lang"] == "en"


def test_drawn_coordinates_are_finite(report: Json) -> None:
    report["proof"].update(max_relative_error=0.0, signal=0.0)
    report["measurement"]["baseline"]["samples_ms"] = [5.0]
    report["measurement"]["candidate"]["samples_ms"] = [5.0, 5.0]
    report["layers"] = [{"name": "empty", "before": [0, 0], "after": [0, 0]}]
    report["seconds"] = {"trace": 0.0}
    for page in (render_html(report), render_html(make_report())):
        for name, attributes in elements(page):
            for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "viewbox"):
                if name != "svg" and key in attributes:
                    assert 0 <= float(attributes[key] or "nan") < 1e4, (name, attributes)


def test_compensation_is_told_with_the_layers_that_are_furthest_off(report: Json) -> None:
    layers = [
        {"layer": name, "before": 0.9, "after": after, "kept": ""} for name, after in (("neck", 0.1), ("cls", 0.7))
    ]
    part = {"images": 64, "layers": layers, "skipped": {"shared": "why"}, "refitted": 2, "refused": ""}
    page = render_html(report | {"compensation": part | {"error_before": 0.9, "error_after": 0.4}})
    assert "2 of 3, on 64 images" in page and page.index("cls</th>") < page.index("neck</th>")
    assert "one image" in render_html(report | {"compensation": {"refused": "there is one image"}})


def test_rescaling_is_told_with_and_without_recalibration(report: Json) -> None:
    report["rescaling"] = {"tensors": {"weight_norm": ["up.0.weight_g"], "mean": []}, "before": 0.83, "after": 0.68}
    for shown in (report, without(report, "recalibration")):
        page = render_html(shown)
        assert "up.0.weight_g" in page and "0.830 → 0.680 deviations" in page
        assert "up.0.weight_g" in terminal(shown)


def test_late_samples_are_counted_not_dropped_silently(report: Json) -> None:
    report["measurement"]["baseline"]["samples_ms"] = [40.0 + i / 100 for i in range(300)] + [4000.0]
    assert "1 of 361 samples are slower than this axis shows" in render_html(report)
    assert "slower than this axis" not in render_html(make_report())


SECTIONS = {
    "measurement": "latency",
    "layers": "layers",
    "proof": "proof",
    "recalibration": "recovery",
    "groups": "groups",
    "graph": "graph",
    "pins": "pins",
    "seconds": "seconds",
    "notes": "notes",
}


@pytest.mark.parametrize("absent", ["missing", None, "empty"])
@pytest.mark.parametrize("key", [k for k in make_report() if k not in {"format", "model"}])
def test_any_part_may_be_absent(report: Json, key: str, absent: str | None) -> None:
    kind = type(report[key])
    changed = without(report, key) if absent == "missing" else {**report, key: None if absent is None else kind()}
    page = render_html(changed)
    elements(page)
    assert terminal(changed)
    if key in SECTIONS:
        assert f'id="{SECTIONS[key]}"' in whole_page()
        assert f'id="{SECTIONS[key]}"' not in page and f'href="#{SECTIONS[key]}"' not in page


@pytest.mark.parametrize("key", ["engines", "onnx"])
def test_files_need_only_one_of_onnx_and_engines(report: Json, key: str) -> None:
    assert 'id="files"' in render_html(without(report, key))
    assert 'id="files"' not in render_html(without(report, "engines", "onnx"))


def test_empty_report_renders() -> None:
    page = render_html({})
    elements(page)
    assert "<section" not in page and "Latency not measured" in page and "No proof was run" in page
    assert "This report says neither" in page and "No channel was found" not in page
    assert "No channel was found that can be removed." in terminal({"groups": []})


def test_analysis_shows_what_could_go(report: Json) -> None:
    analysis = without(report, "proof", "recalibration", "onnx", "engines", "measurement", "options")
    analysis["cost"] = {"before": report["cost"]["before"]}
    analysis["groups"] = [without(g, "kept") for g in report["groups"]]
    analysis["layers"] = [without(layer, "after") for layer in report["layers"]]
    page, printed = render_html(analysis), terminal(analysis)
    assert "128 channels in 2 groups can be removed." in page and "128 channels in 2 groups can be removed." in printed
    assert "nothing was cut" in page and "→ " not in page and "fewer" not in page


def test_numbers_that_are_not_finite_are_not_known(report: Json) -> None:
    report["proof"]["max_relative_error"] = float("nan")
    page = render_html(report)
    assert "not known" in page and "nan" not in re.sub("<[^>]*>", "", page).lower()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), 2, "has format 2; this version of channelcut reads format 1"),
        (("cost",), [], "report.cost is list, expected an object"),
        (("cost", "after", "macs"), "many", "report.cost.after.macs is str, expected a number"),
        (("groups", 1), 3, r"report.groups\[1\] is int, expected an object"),
        (("groups", 0, "width"), True, r"report.groups\[0\].width is bool, expected a number"),
        (("pins",), {}, "report.pins is dict, expected a list"),
        (("measurement", "ratio"), None, "report.measurement.ratio is missing"),
        (("measurement", "baseline", "samples_ms"), [], "report.measurement holds latency 'original' needs at least"),
        (("measurement", "candidate", "samples_ms"), [0.0], "report.measurement holds latency 'pruned' needs at least"),
        (("measurement", "ratio_low"), 2.0, "report.measurement holds not an interval of a ratio"),
    ],
)
def test_damaged_report_is_refused_with_its_place(report: Json, path: Path, value: Any, words: str) -> None:
    damaged = replaced(report, path, value)
    for show in (render_html, terminal):
        with pytest.raises(UserError, match=words):
            show(damaged)


def test_rendering_leaves_the_report_alone_and_repeats(report: Json) -> None:
    first = render_html(report)
    terminal(report)
    assert report == make_report() and render_html(report) == first


def test_tag_escapes_what_is_not_markup() -> None:
    assert tag("p", "<b>", Html("<i></i>"), None, title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;<i></i></p>'
    assert tag("rect", x=1.50, height=2, class_="a", stroke_width=0.333, hidden=False, open=True, y=None) == (
        '<rect x="1.5" height="2" class="a" stroke-width="0.33" open></rect>'
    )


def test_printable_spells_out_what_cannot_be_seen() -> None:
    assert printable("a\tb\nc\x00\u202e\ud800é") == "a b c\\x00\\u202e\\ud800é"
    render_html({"model": "\ud800"}).encode("utf-8")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (significant(0), "0"), (significant(24.44), "24.4"), (significant(1e-14), "1e-14"),
        (significant(2.5e-6), "2.5e-6"), (significant(9.996), "10.0"),
        (significant(0.00123), "0.00123"), (significant(1234.5), "1234"), (significant(None), "not known"),
        (scaled(999), "999"), (scaled(999_900), "1.00 M"), (scaled(3.04e9), "3.04 G"), (scaled(12), "12.0"),
        (change(100, 60), "-40.0 %"), (change(100, 100), "0 %"), (change(0, 5), ""),
        (change(None, 5), ""), (change(10, 11), "+10.0 %"),
        (comparison(4, 2, "MACs"), "50.0 % fewer MACs"), (comparison(2, 4, "MACs"), "100.0 % more MACs"),
        (comparison(2, 2, "MACs"), "as many MACs as before"), (comparison(2, None, "MACs"), ""),
    ],
)  # fmt: skip
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_axis_ticks_are_round_and_inside() -> None:
    assert Axis(0.58, 1.04, 0, 100).ticks() == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert Axis(35, 150, 0, 100).ticks() == [40, 60, 80, 100, 120, 140]
    axis = Axis(10, 20, 100, 50)
    assert (axis.at(10), axis.at(15), axis.at(20), axis.at(99)) == (100, 125, 150, 150)
