"""JSON files, and what is looked for in their values."""

import json
from pathlib import Path
from typing import Any

from manymask.core.files import replace_file
from manymask.errors import FormatError


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: The file is not there, cannot be read, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FormatError(f"{path} does not exist; expected a JSON file") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); expected a JSON file") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8 ({error}); unpack it, or save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}); it is damaged or cut short: export it again") from error


def write_json(path: Path, data: object) -> None:
    """Write a JSON file, whole or not at all."""
    with replace_file(path, "w") as file:
        json.dump(data, file, allow_nan=False)
