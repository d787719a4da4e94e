"""Files written whole or not at all, in UTF-8 whatever the locale."""

import contextlib
import fcntl
import os
import pathlib
import platform
import re
from collections.abc import Mapping


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all.

    Bytes of a command line that are of no character of the locale are taken for UTF-8.
    """
    temporary = path.with_name(f'{path.name}.{platform.node()}.{os.getpid()}.part')
    with open(temporary, 'w', encoding='utf-8') as file:
        with contextlib.suppress(OSError):  # see `_is_abandoned`; not every disk has locks
            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace'))
        file.flush()
        os.replace(temporary, path)


def write_all(folder: pathlib.Path, texts: Mapping[str, str]) -> None:
    """Writes files of a folder, by name."""
    for name, text in texts.items():
        write(folder / name, text)


def clear_parts(folder: pathlib.Path) -> None:
    """Removes the files that processes which are gone had not written to the end."""
    for path in folder.glob('*.part'):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)


def _is_abandoned(path: pathlib.Path) -> bool:
    """Whether the process that began to `write` a file is gone, on this machine and any other."""
    pid = re.search(r'\.(\d+)\.part$', path.name)
    if pid is None:
        return False
    try:
        os.kill(int(pid[1]), 0)
    except PermissionError:
        return False
    except (ProcessLookupError, OverflowError):
        # One of another machine holds a lock.
        with contextlib.suppress(OSError), open(path, 'rb+') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
