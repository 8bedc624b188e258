"""Prints the commands of a Markdown file's ```sh blocks as one script, each echoed before it runs."""

import shlex
import sys

inside = False
command = ""
for line in open(sys.argv[1], encoding="utf-8"):
    line = line.rstrip("\n")
    if line.startswith("```"):
        inside = line.strip() == "```sh" and not inside
        continue
    if not inside or not line.strip() or line.lstrip().startswith("#"):
        continue
    command += line + "\n"
    if not line.endswith("\\"):
        if command.split()[:2] in (["git", "clone"], ["cd", "llm-batch"]) or command.startswith("cd "):
            command = ""
            continue
        print("echo", shlex.quote("\n$ " + command.rstrip("\n")))
        print(command, end="")
        command = ""
