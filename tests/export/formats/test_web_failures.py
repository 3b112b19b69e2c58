"""The page of a web package goes on without a connection or a GPU, and says what is wrong where it cannot."""

from __future__ import annotations

import shutil

import pytest
from small_student import make_student
from web_page import ERROR, READOUT, make_rgba_student, pixels, psnr, show, write_page

from mobiler2l_ns.export.formats.web import convert as web_package
from mobiler2l_ns.export.formats.web import serve as serving
from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.export.formats.web.serve import serve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


def close(server):
    server.shutdown()
    server.server_close()


def test_a_wrong_model_file_is_a_message(browser, served, tmp_path):
    damages = {
        "incomplete": lambda data: data[:-100],
        "checksum": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    }
    for word, damage in damages.items():
        folder = shutil.copytree(served.folder, tmp_path / word)
        weights = folder / web_package.WEIGHTS
        weights.write_bytes(damage(weights.read_bytes()))
        server = serve(folder)
        browser.open(server.address, 390, 844)
        message = browser.wait_for("document.querySelector('#message.error')?.textContent")
        assert "weights.bin" in message and word in message
        assert browser.console == []
        server.shutdown()


def test_scripts_that_do_not_come_or_do_not_run_are_a_message(browser, served, tmp_path):
    lacking = shutil.copytree(served.folder, tmp_path / "lacking")
    (lacking / "camera.js").unlink()
    strange = shutil.copytree(served.folder, tmp_path / "strange")
    (strange / "page.js").write_text("let of the future;")
    slow = shutil.copytree(served.folder, tmp_path / "slow")
    (slow / "kernels-fma.wasm").unlink()
    for folder, words in ((lacking, "could not be loaded"), (strange, "a newer browser"), (slow, "kernels-fma.wasm")):
        server = serve(folder)
        browser.open(f"{server.address}?engine=wasm")
        assert words in browser.wait_for(ERROR)
        server.shutdown()


BREAK_WORKERS = """{
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (question, transfer) {
    const broken = window.broken && question.kind === 'strip';
    post.call(this, broken ? { ...question, view: null } : question, transfer);
  };
}"""


def test_a_picture_that_cannot_be_drawn_is_a_message_until_one_can(browser, served):
    browser.open(f"{served.address}?engine=wasm", before=f"{BREAK_WORKERS} window.broken = true;")
    failed = browser.evaluate("mobiler2l.ready.then(() => '', (error) => error.message)")
    assert "could not be drawn" in failed and browser.evaluate(ERROR) == failed

    show(browser, served.address, before=BREAK_WORKERS)
    assert browser.evaluate(ERROR) is None
    browser.evaluate("(window.broken = true, null)")
    browser.drag((600, 400), (640, 400))
    assert "could not be drawn" in browser.wait_for(ERROR)
    browser.evaluate("mobiler2l.idle().then(() => { window.broken = false; return null })")
    browser.drag((600, 400), (640, 400))
    browser.wait_for(f"!{ERROR}")


def test_each_answer_of_a_worker_is_for_its_question(browser, served):
    browser.open(f"{served.address}?engine=wasm")
    lengths = browser.evaluate(
        """(async () => {
        const [{ WasmEngine }, { loadModel }] = await Promise.all([import('/wasm.js'), import('/model.js')]);
        const model = await loadModel(() => {}), { views, start_pose: pose } = model.manifest;
        const engine = await WasmEngine.create(document.createElement('canvas'), model);
        const ask = (view) => engine.hands[0].ask(
            { kind: 'strip', view, pose, intrinsics: [70, 72, 31, 20], first: 0, count: 2, floats: false });
        const length = (view) => ask(view).then(({ pixels }) => pixels.length, () => 0);
        return Promise.all([views[0], null, views[2]].map(length));
    })()""",
        10,
    )
    assert lengths == [16 * 60 * 4, 0, 16 * 30 * 4]


HARDWARE = "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });"
KEEP_DEVICES = """{
  window.devices = [];
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (wanted) {
    devices.push(await request.call(this, wanted));
    return devices[devices.length - 1];
  };
}"""
REFUSE_REGISTERS = """{
  const create = GPUDevice.prototype.createBuffer, { COPY_SRC, STORAGE, MAP_READ } = GPUBufferUsage;
  GPUDevice.prototype.createBuffer = function (wanted) {
    return create.call(this, wanted.usage & COPY_SRC ? { ...wanted, usage: STORAGE | MAP_READ } : wanted);
  };
}"""
ENGINE = "mobiler2l.engine()"


def test_a_gpu_that_cannot_hold_the_picture_is_left_for_webassembly(browser, served):
    show(browser, served.address, "", before=HARDWARE + REFUSE_REGISTERS)
    assert browser.evaluate(ENGINE).startswith("WebAssembly")
    assert "not by WebGPU" in browser.evaluate("document.getElementById('readout').title")
    browser.open(f"{served.address}?engine=webgpu", before=REFUSE_REGISTERS)
    assert browser.evaluate("mobiler2l.ready.then(() => '', (error) => error.message)") != ""


def test_a_shader_that_the_server_refuses_is_named(browser, served, tmp_path):
    folder = shutil.copytree(served.folder, tmp_path / "page")
    (folder / "network.wgsl").unlink()
    server = serve(folder)
    show(browser, server.address, "", before=HARDWARE)
    assert browser.evaluate(ENGINE).startswith("WebAssembly")
    assert "network.wgsl" in browser.evaluate("document.getElementById('readout').title")
    server.shutdown()


def test_a_lost_gpu_is_tried_once_more(browser, served):
    hidden = "Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true });"
    show(browser, served.address, "", before=HARDWARE + KEEP_DEVICES + hidden)
    assert browser.evaluate(ENGINE) == "WebGPU"
    before = pixels(browser, "mobiler2l.compose()")
    browser.evaluate("(window.away = true, devices[0].destroy(), new Promise((done) => setTimeout(done, 300)))")
    assert browser.evaluate("devices.length") == 1  # not while nobody looks
    browser.evaluate("(window.away = false, document.dispatchEvent(new Event('visibilitychange')), null)")
    browser.wait_for("devices.length === 2")
    assert browser.evaluate(f"mobiler2l.idle().then(() => {ENGINE})") == "WebGPU"
    assert psnr(pixels(browser, "mobiler2l.compose()"), before) > 80

    # An error that nobody asked about is a loss too.
    wrong = "{ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE }"
    browser.evaluate(f"(devices[1].createBuffer({wrong}), devices[1].queue.submit([]), null)")
    browser.wait_for(f"{ENGINE}.startsWith('WebAssembly')")
    browser.evaluate("mobiler2l.idle()")
    assert psnr(pixels(browser, "mobiler2l.compose()"), before) > 40
    assert "WebAssembly" in browser.evaluate(READOUT) and browser.evaluate(ERROR) is None


def keep_offline(browser, address, before=()):
    """Show a page and wait until all of it is kept; returns the names of the caches."""
    show(browser, address, "")
    browser.wait_for("navigator.serviceWorker.ready.then(() => true)", 20)
    kept = f"caches.keys().then((names) => names.length === 1 && !{list(before)}.includes(names[0]) && names)"
    return browser.wait_for(kept, 20)


def test_offline_shows_one_whole_export(browser, tmp_path):
    server = write_page(make_rgba_student(), tmp_path / "old")
    old = keep_offline(browser, server.address)
    close(server)
    for name in ("", "index.html", "?engine=wasm"):
        browser.open(server.address + name)
        browser.evaluate("mobiler2l.ready.then(() => null)")
        assert "60 × 44" in browser.evaluate(READOUT)
        loaded = browser.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
        assert len(loaded) > 10 and all("/kept-" in name for name in loaded)

    # Another export comes to the same address, at first in part.
    close(write_page(make_student(height=32, width=40), tmp_path / "new"))
    weights = tmp_path / "new" / web_package.WEIGHTS
    weights.rename(tmp_path / "weights")
    server = serve(tmp_path / "new", server.server_port)
    browser.open(server.address)
    assert "weights.bin" in browser.wait_for(ERROR)
    close(server)
    show(browser, server.address, "")
    assert "60 × 44" in browser.evaluate(READOUT)

    (tmp_path / "weights").rename(weights)
    server = serve(tmp_path / "new", server.server_port)
    assert keep_offline(browser, server.address, old) != old
    assert "40 × 32" in browser.evaluate(READOUT)
    close(server)
    show(browser, server.address, "")
    assert "40 × 32" in browser.evaluate(READOUT)


def test_offline_works_where_folders_have_no_page(browser, tmp_path, monkeypatch):
    answer = serving._Handler.do_GET

    def without_index(self):
        return self.send_error(404) if self.path == "/" else answer(self)

    monkeypatch.setattr(serving._Handler, "do_GET", without_index)
    server = write_page(make_rgba_student(), tmp_path / "page")
    keep_offline(browser, f"{server.address}index.html")
    close(server)
    show(browser, f"{server.address}index.html", "")
    assert "60 × 44" in browser.evaluate(READOUT)


def test_a_folder_copied_in_part_is_not_kept(browser, served, tmp_path):
    folder = shutil.copytree(served.folder, tmp_path / "page")
    (folder / "page.css").write_text("body { color: red }")
    server = serve(folder)
    show(browser, server.address)
    state = browser.evaluate("""navigator.serviceWorker.register('sw.js').then(({ installing }) =>
        new Promise((resolve) => { installing.onstatechange = () => resolve(installing.state) }))""")
    assert state == "redundant" and browser.evaluate("caches.keys()") == []
    server.shutdown()
