"""The web page as visitors meet it: over plain HTTP, and in a real headless Chromium where there is one."""

from __future__ import annotations

import io
import json
import shutil
import time
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scenes import build_clip, demo_people
from visiting import PATIENCE_S, Visitor, result_key, running_page

from lipsep.media.writing import WavWriter
from lipsep.services.page.line import Line
from lipsep.services.page.pace import Pace
from lipsep.services.page.pieces import failure_html, player_html, progress_html
from lipsep.services.page.remix import remix
from lipsep.services.page.visitors import Visits

httpx = pytest.importorskip("httpx")

MAX_MB = 3.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "two people.mp4"
    build_clip(demo_people(), path, duration_s=2, size=(320, 180))
    return path


@pytest.fixture(scope="module")
def server(model_folder) -> Iterator[str]:
    """Address of a page with a tiny model and small limits."""
    with running_page(model_folder, upload_mb=MAX_MB, duration_s=20) as address:
        yield address


@pytest.fixture
def visitor(server) -> Visitor:
    return Visitor(server)


# --- Without a browser -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_video_becomes_voices_to_hear_and_take_away(visitor, server, clip):
    shown = visitor.separate(clip.name, clip.read_bytes(), as_recorded=True, film=True)
    faces = next(k for k, text in enumerate(shown) if "data:image/png" in text)
    assert faces < len(shown) - 1, "faces appear before the voices are there"
    base = f"/results/{result_key(shown)}"
    wav = visitor.http.get(f"{base}/speaker_2.wav", headers={"Range": "bytes=0-3"})
    assert (wav.status_code, wav.content) == (206, b"RIFF")  # players ask for parts
    assert visitor.http.get(f"{base}/original.wav").status_code == 200
    for name in ("who_speaks_when.rttm", "who_speaks_when.txt", "who_speaks_when.csv", "tracks.mp4", "overview.png"):
        assert visitor.http.get(f"{base}/{name}").status_code == 200, name
        assert f"{base[1:]}/{name}" in shown[-1], f"{name} is offered"
    everything = visitor.http.get(f"{base}/everything.zip", params={"2": "Anna/../<b>"})
    names = zipfile.ZipFile(io.BytesIO(everything.content)).namelist()
    assert {"speaker_1.wav", "2 Anna..b.wav", "2 Anna..b.mp4", "residual.wav", "overview.png", "report.json"} <= {
        *names
    }
    for outside in (
        f"{base}/{clip.name}",  # the upload itself
        f"{base}/..%2f..%2fetc%2fpasswd",
        f"{base}/%2e%2e/%2e%2e/etc/passwd",
        "/results/nobody/speaker_1.wav",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
    ):
        assert visitor.http.get(outside).status_code in (403, 404), outside
    again = Visitor(server).http.get(f"{base}/report.json").json()
    assert again["settings"]["rate"] == "original"
    assert str(Path("/")) + "tmp" not in json.dumps(again)  # no path of the machine
    visitor.separate("next.mp4", b"nothing")
    assert visitor.http.get(f"{base}/speaker_2.wav").status_code == 404  # removed when the visitor begins anew


@pytest.mark.slow
def test_a_run_can_be_cancelled_and_begun_again_with_the_same_file(visitor, clip):
    (path,) = visitor.upload(clip.name, clip.read_bytes()).json()
    visitor.join(path).raise_for_status()
    assert "Cancelled" in visitor.shown(begun=visitor.cancel)[-1]
    visitor.join(path, track="3").raise_for_status()
    last = visitor.shown()[-1]
    assert "lipsep-failure" in last and "track" in last and "--" not in last, "no flags where there is no command line"
    visitor.join(path, track="mix").raise_for_status()
    assert "lipsep-player" in visitor.shown()[-1]


def test_the_remix_is_the_sum_of_voices_as_the_sliders_stand(tmp_path):
    rng = np.random.default_rng(0)
    voices = {name: 0.2 * rng.uniform(-1, 1, (2, 3000)) for name in ("speaker_1", "speaker_2", "residual")}
    for name, samples in voices.items():
        with WavWriter(tmp_path / f"{name}.wav", sample_rate=44_100, n_channels=2) as wav:
            wav.write(samples)

    def heard(**gains: str) -> np.ndarray:
        made = remix(tmp_path, gains)
        content = b"".join(made.pieces)
        assert len(content) == made.n_bytes
        with wave.open(io.BytesIO(content)) as wav:
            assert (wav.getframerate(), wav.getnchannels()) == (44_100, 2)
            return np.frombuffer(wav.readframes(10_000), "<i2").reshape(-1, 2).T / 2**15

    step = 4 / 2**15  # rounded once per voice and once for the sum
    np.testing.assert_allclose(heard(), sum(voices.values()), atol=step)
    expected = 10 ** (-12 / 20) * voices["speaker_1"] + voices["residual"]
    np.testing.assert_allclose(heard(speaker_1="-12", speaker_2="off"), expected, atol=step)
    loud = heard(speaker_1="30")
    assert 0.999 < abs(loud).max() <= 1, "turned down as a whole, not clipped"
    unscaled = 10**1.5 * voices["speaker_1"] + voices["speaker_2"] + voices["residual"]
    np.testing.assert_allclose(loud, unscaled / abs(unscaled).max(), atol=4 * step)  # their roundings, 30 dB up
    for nonsense in ({"speaker_3": "0"}, {"../x": "off"}, {"residual": "nan"}, {"residual": "1e9"}, {"residual": ""}):
        assert remix(tmp_path, nonsense) is None, nonsense


def test_visitors_wait_in_the_order_in_which_they_came():
    line = Line(["process"], n_waiting=2)
    with line.place() as first:
        assert first.worker(0) == "process"
        with line.place() as second, line.place() as third, line.place() as fourth:
            assert fourth is None, "more are turned away"
            assert (second.n_before, third.n_before, second.worker(0)) == (0, 1, None)
            first.leave()
            assert third.worker(0) is None and second.worker(0) == "process", "not who asks first"
            second.leave()
            assert third.worker(0) == "process"
    with line.place() as again:
        assert again.worker(0) == "process", "whoever leaves gives it back"


def test_one_bar_tells_step_percent_and_time_left():
    seconds = iter(range(0, 1000, 10))
    pace = Pace(lambda: next(seconds))
    pace.tell("faces", 50, 100)
    assert "finding faces" in progress_html(pace) and "27 %" in progress_html(pace)
    pace.tell("separate", 1, 2)
    pace.tell("faces", 1, 100)  # what is done never gets less
    assert pace.done == pytest.approx(0.65)
    assert "65 % · about " in progress_html(pace) and progress_html(pace).count("<progress") == 1
    assert Pace(lambda: 0.0).left_s is None, "nobody knows yet"


def test_a_wrong_file_gets_a_sentence(visitor):
    last = visitor.separate("holiday.mp4", b"this is no video" * 100)[-1]
    assert "holiday.mp4" in last and "cannot be read" in last and "Traceback" not in last
    assert "<img" not in visitor.separate("<img src=x>.mp4", b"no")[-1]  # names are text, not markup


def test_what_is_too_large_or_too_long_is_refused(visitor, tmp_path):
    answer = visitor.upload("big.mp4", bytes(int(MAX_MB * 2**20) + 1000))
    assert answer.status_code == 413
    from clips import make_clip

    long = make_clip(tmp_path / "long.mp4", seconds=25.0, fps=2)
    assert "at most" in visitor.separate("long.mp4", long.read_bytes())[-1]


def test_nothing_is_fetched_from_anywhere_else(visitor, server):
    html = visitor.http.get("/").text
    for tag in ("<script", "<link"):
        for piece in html.split(tag)[1:]:
            attributes = piece.split(">")[0]
            assert "http" not in attributes.replace(server, ""), attributes
    config = visitor.http.get("/config").json()
    assert config["analytics_enabled"] is False


def test_folders_of_visitors_are_private_and_go_away(tmp_path):
    visits = Visits(tmp_path, keep_s=0.2)
    one, two = visits.begin("one", "a"), visits.begin("two", "b")
    assert one.key != two.key and len(one.key) >= 32 and one.folder.stat().st_mode & 0o077 == 0
    for visit in one, two:
        (visit.folder / "results").mkdir()
        (visit.folder / "results" / "speaker_1.wav").write_bytes(b"RIFF")
        (visit.folder / "results" / "secret").write_bytes(b"")
    assert visits.file(one.key, "speaker_1.wav") and visits.file(one.key, "secret") is None
    assert visits.file(one.key, f"../../{two.key}/results/speaker_1.wav") is None and visits.file("..", "x") is None
    visits.end("one", "a")
    assert one.stop.is_set() and not one.folder.exists() and two.folder.exists()
    time.sleep(0.3)
    visits.sweep()
    assert not two.folder.exists() and visits.file(two.key, "speaker_1.wav") is None


def test_what_comes_from_outside_is_escaped():
    report = {
        "input": {"duration_s": 2.0},
        "tracks": [{"person": 1, "presence": [[0.0, 1.0]], "files": ["speaker_1.wav", "speaker_1.mp4"]}],
        "files": ["speaker_1.wav", "speaker_1.mp4"],
        "warnings": ["<script>alert(1)</script>"],
    }
    html = player_html("key", report, {}) + failure_html("<u>")
    assert "<script>" not in html and "<u>" not in failure_html("<u>") and "width:50.00%" in html


# --- In Chromium -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: on Debian, apt-get install chromium")
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield chromium
        chromium.close()


def open_page(browser, address: str):
    """A fresh visitor's page, and the addresses of other machines that it asked for."""
    page = browser.new_context(viewport={"width": 1000, "height": 1200}, accept_downloads=True).new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None
        ),
    )
    page.goto(address)
    page.wait_for_selector("#lipsep-upload input[type=file]", state="attached")
    return page, elsewhere


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_chromium_upload_wait_play_switch_download_wrong_file_and_two_at_once(browser, server, clip, tmp_path):
    (one, elsewhere), (two, _) = open_page(browser, server), open_page(browser, server)
    for page in one, two:
        page.set_input_files("#lipsep-upload input[type=file]", str(clip))
        page.wait_for_selector(f"#lipsep-upload >> text={clip.suffix}")
        page.click("#lipsep-start")
    one.wait_for_selector(".lipsep-people img")
    one.fill('.lipsep-people .lipsep-name[data-person="2"]', "Anna")
    for page in one, two:
        page.wait_for_selector(".lipsep-player")
    assert one.input_value('.lipsep-desk .lipsep-name[data-person="2"]') == "Anna", "names are kept"
    one.fill('.lipsep-desk .lipsep-name[data-person="2"]', "Anna B")

    film, desk = "document.querySelector('.lipsep-player video')", "document.querySelector('.lipsep-player').desk"
    one.evaluate(f"{film}.play()")
    one.wait_for_function(f"{film}.currentTime > 0.3 && {desk}?.sounding.length == 3")
    assert one.evaluate(f"{film}.muted"), "the desk alone is heard"
    assert abs(one.evaluate(f"{desk}.drift()")) < 0.06, "seconds between sound and picture"
    one.click('[data-voice="speaker_2"] [data-do="solo"]')
    one.wait_for_function(f"{desk}.gains.map(g => g.gain.value > 0.5).join() == 'false,true,false'")
    one.click('[data-voice="speaker_2"] [data-do="solo"]')
    one.evaluate("""() => { const fader = document.querySelector('[data-voice=residual] input[type=range]');
        fader.value = -12; fader.dispatchEvent(new Event('input', { bubbles: true })); }""")
    one.wait_for_function(f"Math.abs({desk}.gains[2].gain.value - 10 ** (-12 / 20)) < 0.01")
    assert one.get_attribute("a[data-kind=remix]", "href").endswith("remix.wav?residual=-12")
    one.click(".lipsep-more summary")
    one.wait_for_function("document.querySelector('.lipsep-overview').naturalWidth > 500")
    for width in (390, 768, 1280):
        one.set_viewport_size({"width": width, "height": 900})
        assert one.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"

    with one.expect_download() as voice:
        one.click('a[data-person="2"][data-kind="wav"]')
    assert voice.value.suggested_filename == "Anna B.wav"
    with one.expect_download() as everything:
        one.click("a[data-kind=zip]")
    everything.value.save_as(tmp_path / "all.zip")
    assert "2 Anna B.wav" in zipfile.ZipFile(tmp_path / "all.zip").namelist()
    keys = [page.get_attribute(".lipsep-player", "data-base").split("/")[1] for page in (one, two)]
    assert keys[0] != keys[1]

    wrong = tmp_path / "wrong.mp4"
    wrong.write_bytes(b"no video")
    third, _ = open_page(browser, server)
    third.set_input_files("#lipsep-upload input[type=file]", str(wrong))
    third.wait_for_selector("#lipsep-upload >> text=.mp4")
    third.click("#lipsep-start")
    assert "wrong.mp4" in third.inner_text(".lipsep-failure")
    assert not elsewhere, elsewhere
    two.close()
    gone_s = time.monotonic() + 30
    while httpx.get(f"{server}/results/{keys[1]}/report.json").status_code != 404 and time.monotonic() < gone_s:
        time.sleep(0.5)
    assert httpx.get(f"{server}/results/{keys[1]}/report.json").status_code == 404  # a visitor who leaves takes all
    assert httpx.get(f"{server}/results/{keys[0]}/report.json").status_code == 200
