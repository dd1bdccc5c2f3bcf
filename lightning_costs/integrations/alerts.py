"""Alerts of a budget: who is notified that most or all of a limit is used, and how, at no risk for the training."""

from __future__ import annotations

import atexit
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, final
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lightning_costs.records.secrets import harmless_name

#: Seconds for which the end of the process waits for an alert that is on its way, and a webhook for its server.
WAIT_S = 5.0
_log = logging.getLogger("lightning_costs")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAlert:
    """That much of a limit is used.

    Args:
        kind: 'warn' or 'stop'.
        run: What the run is called.
        column: The counter that is limited.
        unit: Its unit.
        limit: The limit.
        amount: What is used.
        step: The step at which it was.
        text: All of it in a sentence, without the run's name.
    """

    kind: Literal["warn", "stop"]
    run: str
    column: str
    unit: str
    limit: float
    amount: float
    step: int
    text: str


OnAlert = Callable[[BudgetAlert], object]


def send(alert: BudgetAlert, to: OnAlert | None) -> None:
    """Call a user's function in a thread of its own: training does not wait for it, nor sees what it raises."""
    if to is None:
        return
    try:
        thread = threading.Thread(target=_call, args=(alert, to), name="lightning-costs alert", daemon=True)
        thread.start()
        atexit.register(thread.join, WAIT_S)  # a stop may be the last thing that a process does
    except RuntimeError as error:  # no more threads
        _log.warning("an alert of the budget could not be sent: %s", type(error).__name__)


def _call(alert: BudgetAlert, to: OnAlert) -> None:
    try:
        to(alert)
    except Exception as error:  # noqa: BLE001 - the user's function, or a remote server
        # Its type alone: the words may hold the address, which is a secret.
        _log.warning("an alert of the budget could not be sent: %s", type(error).__name__)


@final
@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts alerts to an incoming webhook: the run's name, figures and the step, and nothing else.

    Args:
        url: The webhook's address, which is a secret: it is in no log and no `repr`.
        format: 'slack', which Mattermost and others take, too, or 'teams': an adaptive card, as its workflows expect.

    Raises:
        ValueError: For what is no http or https address, or an unknown format.

    Example:
        ::

            notify = Webhook(os.environ["SLACK_WEBHOOK"])
            CostBudget({"cloud_usd": 50.0}, on_warn=notify, on_stop=notify)
    """

    url: str = field(repr=False)
    format: Literal["slack", "teams"] = "slack"

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError("url must be the http or https address of a webhook; what came is none")
        if self.format not in ("slack", "teams"):
            raise ValueError(f"format must be 'slack' or 'teams', got {self.format!r}")

    def __call__(self, alert: BudgetAlert) -> None:
        """Post it; raises what goes wrong."""
        body = json.dumps(message(alert, self.format)).encode()
        request = Request(self.url, body, {"Content-Type": "application/json", "User-Agent": "lightning-costs"})
        with urlopen(request, timeout=WAIT_S) as answer:
            answer.read(1)


def message(alert: BudgetAlert, format: Literal["slack", "teams"]) -> dict[str, Any]:
    """The body that a webhook takes.

    Example:
        >>> alert = BudgetAlert(kind="warn", run="/home/ada/x", column="steps", unit="steps", limit=10.0, amount=8.0,
        ...                     step=7, text="80 % of the budget of 10 steps is used at step 7")
        >>> message(alert, "slack")
        {'text': 'a run: 80 % of the budget of 10 steps is used at step 7'}
    """
    text = f"{harmless_name(alert.run, 'a run')}: {alert.text}"
    if format == "slack":
        for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # else a name could mention a channel
            text = text.replace(mark, escaped)
        return {"text": text}
    card = {"type": "AdaptiveCard", "version": "1.2", "body": [{"type": "TextBlock", "text": text, "wrap": True}]}
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}
