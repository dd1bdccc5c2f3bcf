"""A statement as the YAML that Hugging Face model cards have for it: `co2_eq_emissions`.

Fields: https://huggingface.co/docs/hub/model-cards-co2 (emissions in grams, source, training_type,
geographical_location, hardware_used). What is not known is left out, and a comment says how to give it.
"""

from __future__ import annotations

from lightning_costs.report.statement.facts import Statement
from lightning_costs.report.statement.tables import hardware_line, place_line, summary_line


def model_card(said: Statement, *, training_type: str | None = None) -> str:
    """The block for the metadata at the head of a model card's README.md.

    Args:
        said: The statement; its CO2e must be known, in some run at least.
        training_type: 'pre-training' or 'fine-tuning', which no measurement can tell.

    Raises:
        ValueError: Where no run has any CO2e: the block would say nothing.
    """
    carbon = said.totals["co2e_g"]
    if carbon.amount is None:
        why = next(iter(carbon.reasons), "it was not measured")
        raise ValueError(f"co2_eq_emissions needs co2e_g: {why}; a place can be named afterwards: --tariff FILE")
    fields = {
        "emissions": number(carbon.amount),
        "source": quoted(summary_line(said)),
        "training_type": None if training_type is None else quoted(training_type),
        "geographical_location": None if (place := place_line(said)) is None else quoted(place),
        "hardware_used": None if (hardware := hardware_line(said)) is None else quoted(hardware),
    }
    hints = {
        "training_type": "pre-training or fine-tuning: --training-type",
        "geographical_location": "where it ran: country= and region= of the tariff",
        "hardware_used": "the runs did not record it",
    }
    lines = [f"  {name}: {text}" if text is not None else f"  # {name}: {hints[name]}" for name, text in fields.items()]
    return "\n".join(["co2_eq_emissions:", *lines]) + "\n"


def number(amount: float) -> str:
    """A float that every YAML reader takes for one: a mantissa without a point would be a text to some.

    Example:
        >>> number(1e-05), number(12.5)
        ('1.0e-05', '12.5')
    """
    mantissa, mark, exponent = repr(float(amount)).partition("e")
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{mark}{exponent}"


def quoted(text: str) -> str:
    r"""A text in YAML's double quotes, on one line, whatever is in it.

    Example:
        >>> quoted('8 x "A100": 50 %\n')
        '"8 x \\"A100\\": 50 %\\n"'
    """
    return '"' + "".join(map(_character, text)) + '"'


def _character(character: str) -> str:
    code = ord(character)
    if character in '\\"':
        return f"\\{character}"
    if character == "\n":
        return "\\n"
    if 0xD800 <= code <= 0xDFFF:  # half of a pair, which no file in UTF-8 can hold
        return "\ufffd"
    if " " <= character <= "~" or (code >= 0xA0 and code not in (0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)):
        return character
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
