"""Opens files through libactquant and says how many were refused as files; fails where one is not.

open_files.py LIBRARY < [[path, what its message names], ...]
"""

import ctypes
import json
import sys

FILE_ERROR = 1

library = ctypes.CDLL(sys.argv[1])
library.aq_last_error.restype = ctypes.c_char_p
files = json.load(sys.stdin)
for path, culprit in files:
    session = ctypes.c_void_p()
    status = library.aq_open(path.encode(), 1, ctypes.byref(session))
    message = library.aq_last_error().decode()
    if status != FILE_ERROR or culprit not in message:
        sys.exit(f"{path}: status {status}: {message}")
print(json.dumps({"refused": len(files)}))
