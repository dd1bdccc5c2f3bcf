"""Alerts of a budget: a webhook that is slow, refuses, closes or fails, and functions that raise, leave a fit alone."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import measured
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostBudget, CostMonitor
from lightning_costs.indicators.counts import Steps
from lightning_costs.integrations.alerts import BudgetAlert, Webhook, message

ALERT = BudgetAlert(
    kind="warn", run="mine", column="energy_j", unit="j", limit=10.0, amount=9.0, step=3, text="90 % of 10 J is used"
)


class Server(ThreadingHTTPServer):
    """Keeps what is posted, and answers as it is told."""

    daemon_threads = True

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.posted: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.came = threading.Semaphore(0)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.posted.append(json.loads(body))
                server.heads.append(str(self.headers))
                server.came.release()
                answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/T000/secret-token"


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Server]:
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ok(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"ok")


def fit(folder: Path, **budget: Any) -> Any:
    pl = namespace("lightning.pytorch")
    torch.manual_seed(0)
    watched = [Steps(), measured("bead_calls", reads=lambda sample: 1.0 * sample.steps)]
    monitor = CostMonitor(save_dir=folder / "costs", infer=False, indicators=watched, name="mine")
    callbacks = [monitor, CostBudget({"bead_calls": 20}, checkpoint=False, **budget)]
    t = trainer(pl, *callbacks, default_root_dir=folder, max_epochs=10)
    t.fit(classifier(pl), data())
    assert t.global_step == 20
    return t


def weights(t: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in t.lightning_module.parameters()]


def test_each_alert_reaches_the_webhook_once_with_figures_alone(tmp_path: Path) -> None:
    with serving(ok) as server:
        tell = Webhook(server.url)
        fit(tmp_path, on_warn=tell, on_stop=tell)
        for _ in range(2):
            assert server.came.acquire(timeout=60)
    texts = sorted(body["text"] for body in server.posted)
    assert len(texts) == 2
    assert texts[0].startswith("mine: 80 % of the budget of 20 calls (bead_calls) is used at step 15")
    assert texts[1] == "mine: the budget of 20 calls (bead_calls) is used up: 20 calls at step 19; training stops"
    sent = "".join(texts + server.heads).replace(f"127.0.0.1:{server.server_port}", "")
    for never in (str(tmp_path), platform.node(), "secret-token", str(Path.home())):
        assert never not in sent


def test_a_server_that_never_answers_holds_up_no_training(tmp_path: Path) -> None:
    answered = threading.Event()
    bare = weights(fit(tmp_path / "bare"))
    with serving(lambda handler: answered.wait() and ok(handler)) as server:
        tell = Webhook(server.url)
        alerted = weights(fit(tmp_path / "told", on_warn=tell, on_stop=tell))  # ends, though nobody answers
        assert not answered.is_set()
        answered.set()
    assert all(map(torch.equal, bare, alerted))


@pytest.mark.parametrize("how", ["closes", "fails", "is not there", "raises"])
def test_what_goes_wrong_is_said_without_the_address(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    bare = weights(fit(tmp_path / "bare"))
    said = threading.Semaphore(0)

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "could not be sent" in record.getMessage():
                said.release()

    def raises(_: BudgetAlert) -> None:
        raise RuntimeError("https://hooks/secret-token")

    answers: dict[str, Any] = {
        "closes": lambda handler: handler.connection.close(),
        "fails": lambda handler: handler.send_error(500),
    }
    watcher = Said()
    logging.getLogger("lightning_costs").addHandler(watcher)
    try:
        with serving(answers.get(how, ok)) as server:
            if how == "is not there":
                server.server_close()
            tell = raises if how == "raises" else Webhook(server.url)
            alerted = weights(fit(tmp_path / "told", on_stop=tell))
            assert said.acquire(timeout=60)
    finally:
        logging.getLogger("lightning_costs").removeHandler(watcher)
    assert "secret-token" not in caplog.text
    assert all(map(torch.equal, bare, alerted))


def test_a_name_that_tells_too_much_is_not_sent() -> None:
    for name in ("/home/ada/run", "C:\\runs", platform.node() + "-run", "sk-" + "a1B2c3D4" * 6):
        alert = BudgetAlert(**{**{f: getattr(ALERT, f) for f in ALERT.__slots__}, "run": name})
        assert message(alert, "slack") == {"text": "a run: 90 % of 10 J is used"}
    mention = BudgetAlert(**{**{f: getattr(ALERT, f) for f in ALERT.__slots__}, "run": "<!channel>"})
    assert message(mention, "slack")["text"].startswith("&lt;!channel&gt;")


def test_teams_gets_an_adaptive_card() -> None:
    (attached,) = message(ALERT, "teams")["attachments"]
    assert attached["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attached["content"]["body"][0]["text"] == "mine: 90 % of 10 J is used"


def test_an_address_is_no_ones_to_see_and_goes_where_the_budget_goes() -> None:
    tell = Webhook("https://hooks.example.com/secret-token")
    assert "secret-token" not in repr(tell)
    for copied in (copy.deepcopy(tell), pickle.loads(pickle.dumps(tell))):
        assert copied == tell
    budget = pickle.loads(pickle.dumps(CostBudget({"steps": 3}, on_stop=tell)))
    assert budget._on_stop == tell
    for url in ("file:///etc/passwd", "secret-token", "https://"):
        with pytest.raises(ValueError, match="must be the http or https address") as refused:
            Webhook(url)
        assert "secret-token" not in str(refused.value)
    with pytest.raises(ValueError, match="must be 'slack' or 'teams'"):
        Webhook("https://x", "mail")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_warn must be a function"):
        CostBudget({"steps": 3}, on_warn="https://x")  # type: ignore[arg-type]
