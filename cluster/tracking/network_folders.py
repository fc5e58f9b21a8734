"""Whether a folder is on a network file system, whose locks SQLite cannot rely on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/mounts")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|lustre|gpfs|beegfs|orangefs|pvfs2|ocfs2|gfs2|wekafs|panfs|fuse\..+|s3fs"
)
_LOCAL_FUSE = re.compile(r"fuse\.(fuse-overlayfs|lxcfs|portal|gvfsd-fuse|bindfs|ntfs.*|exfat.*)")


@dataclass(frozen=True)
class NetworkMount:
    """A network file system and the folder at which it is mounted."""

    kind: str
    folder: Path


def network_mount(path: Path, *, mounts: Path = MOUNTS) -> NetworkMount | None:
    """The network file system that holds `path`, which need not exist; None for a local one, or if that is unknown."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    path = path.resolve()
    found = ("", Path())
    for line in lines:
        _, folder, kind, *_ = [*line.split(" "), "", "", ""]
        mounted = Path(_unescaped(folder) or "/")
        # Of two mounts at one folder, the later one is seen.
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found[1].parts):
            found = (kind, mounted)
    kind, folder_of = found
    if not _NETWORK.fullmatch(kind) or _LOCAL_FUSE.fullmatch(kind):
        return None
    return NetworkMount(kind, folder_of)


def _unescaped(text: str) -> str:
    """A path of /proc/mounts, in which spaces and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
