"""Has actquant-serve serve a policy, asks for its pages, and stops it.

python serve_policy.py POLICY.gguf
"""

import subprocess
import sys
import urllib.request

process = subprocess.Popen(
    ["actquant-serve", f"policy={sys.argv[1]}", "--port", "0"], stdout=subprocess.PIPE, text=True
)
assert process.stdout is not None
address = process.stdout.readline().split(" ")[1].strip()
pages = address.replace("ws:", "http:").removesuffix("/policy")
for page in ("healthz", "readyz", "metrics"):
    with urllib.request.urlopen(f"{pages}/{page}", timeout=60) as answer:
        print(page, answer.status, len(answer.read()), "bytes")
process.terminate()
assert process.wait(60) == 0
