"""What a run's header must not hold of a script's settings: secrets and people, by name and by look.

The patterns err on the side of leaving out: a setting that is not recorded costs a line of a table, a recorded secret
costs the secret.
"""

from __future__ import annotations

import platform
import re
from itertools import pairwise

from lightning_costs.records.printable import printable

#: Words of a name that mark a secret, whatever its value is.
SECRET_WORDS = (
    r"passw(or)?ds?|passwd|passphrase|pwd|secrets?|credentials?|creds?|apikeys?|api_?keys?|bearer|cookies?|jwt|"
    r"oauth2?|netrc|pgpass|dsn|webhooks?|connection_?string|conn_?str|sas"
)
#: Words that mark one too, unless the value is a number and the name has a word of `COUNTING_WORDS`.
AMBIGUOUS_WORDS = r"keys?|tokens?|auth|authorization|authentication|private|signature|license"
#: Words of a name that make a number a count, a size or an index: `max_tokens`, `key_dim`, `pad_token_id`.
COUNTING_WORDS = (
    r"dims?|size|sizes|num|n|max|min|id|ids|index|idx|count|counts|len|length|lengths|per|heads?|masks?|rate|ratio|"
    r"prob|dropout|batch|total|seen|budget|weight|width|window|context|patch|vocab|vocabulary|loss|first|last|new|"
    r"padding|block|hidden|channels|depth|layers|special|class|cls"
)
#: Words that name a person or a machine, if the value is a text.
PERSONAL_WORDS = r"user|users|username|login|email|mail|hostname|host|author|phone|address|ip"

#: How secrets begin that are known by their beginning, at the begin of a text or after what is no part of a word.
KNOWN_TOKENS = (
    r"hf_[A-Za-z0-9]{8,}",  # Hugging Face
    r"api_org_[A-Za-z0-9]{8,}",
    r"sk-[A-Za-z0-9_-]{8,}",  # OpenAI, Anthropic
    r"(sk|pk|rk)_(live|test)_[A-Za-z0-9]{8,}",  # Stripe
    r"gh[opsur]_[A-Za-z0-9]{8,}",  # GitHub
    r"github_pat_\w{8,}",
    r"gl(pat|dt|rt|cbt|ptt|soat)-[\w-]{8,}",  # GitLab
    r"xox[abeoprs]-[\w-]{8,}",  # Slack
    r"xapp-[\w-]{8,}",
    r"(AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}",  # AWS
    r"AIza[\w-]{16,}",  # Google
    r"ya29\.[\w-]{8,}",
    r"GOCSPX-[\w-]{8,}",
    r"eyJ[\w-]{8,}\.[\w-]*",  # JSON Web Token
    r"npm_[A-Za-z0-9]{8,}",
    r"pypi-[\w-]{8,}",
    r"do[opr]_v1_[a-f0-9]{8,}",  # DigitalOcean
    r"SG\.[\w-]{8,}",  # SendGrid
    r"local-[a-f0-9]{20,}",  # a W&B server of one's own
    r"wandb_v1_\w{8,}",
    r"dapi[a-f0-9]{16,}",  # Databricks
    r"nvapi-[\w-]{8,}",
    r"r8_[A-Za-z0-9]{8,}",  # Replicate
    r"gsk_[A-Za-z0-9]{8,}",
    r"shp(at|ca|pa|ss)_[A-Za-z0-9]{8,}",
    r"sq0[a-z]{3}-[\w-]{8,}",
    r"ATATT[\w=-]{8,}",  # Atlassian
    r"lin_api_\w{8,}",
    r"AGE-SECRET-KEY-\w{8,}",
    r"tskey-[\w-]{8,}",
    r"dckr_pat_[\w-]{8,}",
    r"hvs\.[\w-]{8,}",  # HashiCorp Vault
    r"\d{8,10}:[\w-]{30,}",  # Telegram
)
#: Texts that hold a secret wherever it stands in them.
SECRET_TEXTS = (
    r"-----BEGIN [A-Z ]*(PRIVATE KEY|CERTIFICATE|PGP)",
    r"\b(Bearer|Basic|Token)\s+[\w.~+/=-]{8,}",
    r"[a-zA-Z][\w+.-]*://[^\s/@]*:[^\s/@]*@",  # a URL with a password
    r"[a-zA-Z][\w+.-]*://[^\s/@:]{6,}@",  # a URL with a token
    r"[?&;](\w*[-_])?(key|token|secret|sig|signature|password|passwd|pwd|credential|auth)=",
    r"(?i:\b\w*(passw(or)?d|passwd|pwd|secret|token|api[_-]?key|accountkey|sharedaccesskey|credential)\w*\s*[=:]\s*\S+)",
    r"(?i:--?\w*[-_]?(password|secret|token|api[_-]?key)\s+\S+)",
    r"\bssh-(rsa|ed25519|dss) [A-Za-z0-9+/=]{20,}",
)
#: Texts that name a person.
PERSONAL_TEXTS = (r"[\w.+-]+@[\w-]+(\.[\w-]+)+",)
#: Whole pieces of a text that are random by their form: hexadecimal of 32 digits or more (keys of W&B have 40), UUIDs.
RANDOM_FORMS = (r"(0x)?[0-9a-fA-F]{32,}", r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

#: A piece that is shorter is no random key.
LEAST_RANDOM = 20
#: In a random key this share of neighbours differs in kind (lower case, upper case, digit), separators are rarer, and
#: this many characters follow each other without one. Names of files and models are mixed, too, but have separators.
MIXED_SHARE, MIXED_SHARE_UNBROKEN, MOST_SEPARATORS, LEAST_UNBROKEN = 0.2, 0.12, 1 / 6, 8

#: Characters of a name that leaves the machine.
_MOST_CHARACTERS = 80
_STRICT = re.compile(rf"(^|_)({SECRET_WORDS})(_|$)")
_AMBIGUOUS = re.compile(rf"(^|_)({AMBIGUOUS_WORDS})(_|$)")
_COUNTING = re.compile(rf"(^|_)({COUNTING_WORDS})(_|$)")
_PLURAL = re.compile(r"(^|_)(keys|tokens)(_|$)")
_PERSONAL = re.compile(rf"(^|_)({PERSONAL_WORDS})(_|$)")
_KNOWN = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(KNOWN_TOKENS)})")
_TEXTS = re.compile("|".join((*SECRET_TEXTS, *PERSONAL_TEXTS)))
_FORMS = re.compile(rf"({'|'.join(RANDOM_FORMS)})")
_PIECES = re.compile(r"[A-Za-z0-9+/_=.-]+")
_SEPARATORS = re.compile(r"[+/_=.-]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: A capital that begins a word.
_INITIAL = re.compile(r"[A-Z](?=[a-z]{2})")

#: The folder of a person's own, on Linux, macOS and Windows, and on clusters.
_HOME = re.compile(r"(?i:(?<![\w.])(?:[a-z]:)?[\\/](?:home|users)[\\/][^\\/\s:;,'\"]+|(?<![\w.])/root(?![\w.-])|~\w+)")
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:[\\/]|[\\/]|~)")


def is_secret_name(name: str, value: object = "") -> bool:
    """Whether a setting's name says that its value is a secret, or a person's.

    Example:
        >>> [is_secret_name(name) for name in ("wandb_api_key", "accessToken", "db.password", "lr", "tokenizer")]
        [True, True, True, False, False]
        >>> is_secret_name("max_tokens", 512), is_secret_name("token", 512), is_secret_name("user", "Ada")
        (False, True, True)
    """
    words = re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", name).lower())
    if _STRICT.search(words):
        return True
    number = isinstance(value, int | float)
    if _AMBIGUOUS.search(words):
        return not (number and (isinstance(value, bool) or _COUNTING.search(words) or _PLURAL.search(words)))
    return not number and _PERSONAL.search(words) is not None


def looks_secret(text: str) -> bool:
    """Whether a text looks like a secret, or holds one.

    Example:
        >>> looks_secret("hf_AbCdEfGhIjKl"), looks_secret("postgres://ada:lovelace@db/runs")
        (True, True)
        >>> looks_secret("resnet50_fpn_v2_coco"), looks_secret("9b2f60a1c4d8e7f35a0b6c1d2e3f4a5b")
        (False, True)
    """
    if _KNOWN.search(text) or _TEXTS.search(text):
        return True
    return any(_FORMS.fullmatch(piece) or _is_random(piece) for piece in _PIECES.findall(text))


def harmless_name(name: str, otherwise: str) -> str:
    """A run's name that may leave the machine, unless a path, this machine's name or a secret is in it.

    Example:
        >>> harmless_name("deeper", "a run"), harmless_name("/home/ada/x", "a run")
        ('deeper', 'a run')
    """
    host = platform.node().partition(".")[0].lower()
    if any(mark in name for mark in "/\\") or (host and host in name.lower()):
        return otherwise
    if looks_secret(name) or any(looks_secret(word) for word in name.split()):
        return otherwise
    return printable(name)[:_MOST_CHARACTERS] or otherwise


def _is_random(piece: str) -> bool:
    piece = piece.strip("+/_=.-")
    letters = _SEPARATORS.sub("", piece)
    if len(letters) < LEAST_RANDOM or len(piece) - len(letters) > MOST_SEPARATORS * len(piece):
        return False
    if max(map(len, _SEPARATORS.split(piece))) < LEAST_UNBROKEN:
        return False
    kinds = ["0" if c.isdigit() else "A" if c.isupper() else "a" for c in _INITIAL.sub("a", letters)]
    mixed = sum(first != second for first, second in pairwise(kinds))
    return mixed >= (MIXED_SHARE_UNBROKEN if letters == piece else MIXED_SHARE) * (len(kinds) - 1)


def without_homes(text: str) -> str:
    """A text whose absolute path is its last part, and which names no person's folder.

    Example:
        >>> without_homes("/home/ada/data/cifar10"), without_homes("/home/ada"), without_homes("data/cifar10")
        ('…/cifar10', '~', 'data/cifar10')
        >>> without_homes("train on /Users/ada/data twice")
        'train on ~/data twice'
    """
    homeless = _HOME.sub("~", text)
    if _ABSOLUTE.match(homeless) and not re.search(r"\s[\\/~]", homeless):
        last = re.split(r"[\\/]", homeless.rstrip("\\/"))[-1]
        return f"…/{last}" if last not in ("", "~") and not last.endswith(":") else homeless[:1]
    return homeless
