"""Server processes: made, found ready and ended."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SERVED = Path(__file__).resolve().parent / "served"


class Failure(Exception):
    """Something that the run cannot go on without."""


def python_with_servers(folder):
    """The Python of the virtual environment in the folder. What is there is used as it is; else it is installed."""
    requirements = SERVED / "requirements.txt"
    environment = folder / "venv"
    python = environment / "bin" / "python"
    installed = environment / "installed.txt"
    wanted = requirements.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing the servers into {environment}; this takes some minutes", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", environment],
            [python, "-m", "pip", "install", "--quiet", "--requirement", requirements],
        ):
            if subprocess.run(command).returncode != 0:
                raise Failure(f"the servers cannot be installed into {environment}; see pip's messages above")
        installed.write_text(wanted)
    return python


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, timeout=10):
    # No proxy reaches this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout) as reply:
        return reply.read().decode()


class Server:
    """A process that serves until its `with` block ends, or this program, however that ends (see `lifeline.py`)."""

    def __init__(self, name, folder, command, environment, health):
        self.log = folder / f"{name}.log"
        self.name = name
        self._read = 0
        # A variable that is to be none is not handed on.
        own = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        variables = {**os.environ, **own, **environment}
        variables = {name: value for name, value in variables.items() if value is not None}
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                # An interrupt from the terminal is for this program, which ends the server itself.
                start_new_session=True,
            )
        try:
            self._wait_until_ready(health)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, health, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise Failure(f"{self.name} ended while it started; its log is {self.log}")
            try:
                get(health, timeout=5)
                return
            except OSError:
                time.sleep(0.2)
        raise Failure(f"{self.name} was not ready after {seconds} s; its log is {self.log}")

    def new_lines(self):
        """The whole lines of the log that were written since the last call."""
        with open(self.log, "rb") as log:
            log.seek(self._read)
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        return text.decode(errors="replace").splitlines()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
