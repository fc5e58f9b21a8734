"""Why an MLflow store cannot be used, in words: what came, and what to do."""

from __future__ import annotations

from cluster.tracking.mlflow_store import DeletedExperimentError

_LONGEST = 300
_REFUSED = (
    "the server refuses the user or the token; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN, to ones that may write to it"
)
_OTHER_VERSION = (
    "the database is of another version of MLflow than this environment's {version}; use that version, or, after a "
    "copy of the database, bring it to this one: mlflow db upgrade ADDRESS"
)


def in_words(error: BaseException) -> str:
    """One line that says why the store cannot be used."""
    text = str(error)
    if isinstance(error, DeletedExperimentError):
        return text
    if isinstance(error, ModuleNotFoundError):
        return (
            f"its database needs the Python package {error.name}; install it (PostgreSQL: pip install psycopg[binary])"
        )
    if any(mark in text for mark in ("error code 401", "error code 403", "401 !=", "Unauthorized")) or (
        getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
    ):
        return _REFUSED
    if "out-of-date database schema" in text or "Can't locate revision" in text or "database schema" in text:
        from importlib.metadata import version

        return _OTHER_VERSION.format(version=version("mlflow"))
    return (text.splitlines()[0] if text else type(error).__name__)[:_LONGEST]
