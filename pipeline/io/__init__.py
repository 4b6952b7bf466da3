"""Files, folders and processes: atomic writes, locks, text of any encoding, what system errors mean."""

from .atomic import check_files, folder_beside, lock_folder, remove_leftovers, replaced
from .code import code_digest
from .processes import helpers, share_of_threads
from .reasons import describe_lock, first_sentence, remedy, system_error
from .texts import counted, encoding_of, read_names, read_text

__all__ = [
    "check_files",
    "code_digest",
    "counted",
    "describe_lock",
    "encoding_of",
    "first_sentence",
    "folder_beside",
    "helpers",
    "lock_folder",
    "read_names",
    "read_text",
    "remedy",
    "remove_leftovers",
    "replaced",
    "share_of_threads",
    "system_error",
]
