"""A MONAI Label server as a process, and what it is asked over REST."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import nrrd
import numpy as np
import requests
from PIL import Image

from common.vision_operators import make_torchvision_importable

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds, for the server to start and for each task of it
POLL = 1.0
# MONAI Label imports all of torchvision, whose compiled part cannot load where it is built for CUDA and torch is not.
_DECLARE = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("vision_operators", {str(REPOSITORY / "common/vision_operators.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.{make_torchvision_importable.__name__}()
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server of an app folder over a folder of images, for a ``with`` block; killed with all that it has started.

    Args:
        app: folder with ``main.py`` and ``model/``.
        studies: folder of images.
        conf: pairs for ``--conf``.
        log: file for all that it prints.
    """

    def __init__(self, app: Path, studies: Path, conf: dict[str, str], log: Path) -> None:
        self.app, self.studies, self.conf, self.log = app, studies, conf, log
        self.port = _free_port()
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        site = self.log.parent / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_DECLARE)
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(self.app)]
        command += ["--studies", str(self.studies), "--host", "127.0.0.1", "--port", str(self.port)]
        for pair in self.conf.items():
            command += ["--conf", *pair]
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                command, cwd=self.log.parent, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.info()
                return self
            except requests.ConnectionError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.__exit__()
                    raise SystemExit(f"the server did not start:\n{self.log.read_text()[-3000:]}") from None
                time.sleep(POLL)

    def __exit__(self, *_: Any) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # a group of its own: trainings that it has started too
        self.process.wait()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Ask, and refuse any other answer than 200."""
        response = requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE, **options)
        if response.status_code != 200:
            raise SystemExit(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response

    def info(self) -> dict[str, Any]:
        """What the app offers."""
        return self.request("GET", "/info/").json()

    def infer(self, model: str, image: str | Path, params: str = "{}") -> np.ndarray:
        """The mask of an image, by its id or, of a `Path`, by upload.

        Raises:
            SystemExit: if the answer is no grey PNG.
        """
        options: dict[str, Any] = {"params": {"output": "image"}, "data": {"params": params}}
        if isinstance(image, Path):
            options["files"] = {"file": (image.name, image.read_bytes())}
        else:
            options["params"]["image"] = image
        answer = Image.open(io.BytesIO(self.request("POST", f"/infer/{model}", **options).content))
        if (answer.format, answer.mode) != ("PNG", "L"):
            raise SystemExit(f"{model}, {image}: the answer is {answer.format} of mode {answer.mode}")
        return np.asarray(answer)

    def save_label(self, image: str, label: Path) -> None:
        """Save a mask as the final label of an image."""
        files = {"label": (label.name, label.read_bytes())}
        self.request("PUT", "/datastore/label", params={"image": image, "tag": "final"}, files=files)

    def train(self, model: str, **params: Any) -> tuple[str, Sequence[str]]:
        """Train to the end; the status, and the last lines of its log."""
        self.request("POST", f"/train/{model}", json=params)
        return self.wait("train")

    def wait(self, task: str) -> tuple[str, Sequence[str]]:
        """Wait until all tasks of a kind are at their end; the last one's status and last lines."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            tasks = self.request("GET", f"/{task}/", params={"all": True}).json()
            if all(each["status"] not in ("SUBMITTED", "RUNNING") for each in tasks):
                return tasks[-1]["status"], tasks[-1].get("details", [])
            time.sleep(POLL)
        raise SystemExit(f"{task} was not done after {PATIENCE} s")

    def next_image(self, strategy: str) -> str:
        """The id of the image that a strategy serves next."""
        return self.request("POST", f"/activelearning/{strategy}", json={}).json()["id"]


Polygon = tuple[str, list]  # its label; x and y in turn, or points


def ask_as_cvat(server: Server, model: str, image: Path) -> list[Polygon]:
    """What CVAT would be answered: by the function that MONAI Label ships for it, called as CVAT calls it."""
    path = Path(sys.prefix) / "monailabel" / "plugins" / "cvat" / "detector.py"
    spec = importlib.util.spec_from_file_location("cvat_detector", path)
    detector = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detector)
    context = SimpleNamespace(
        logger=logging.getLogger("cvat"), user_data=SimpleNamespace(), Response=lambda **answer: answer["body"]
    )
    os.environ |= {"MONAI_LABEL_SERVER": f"http://127.0.0.1:{server.port}", "MONAI_LABEL_MODEL": model}
    detector.init_context(context)
    event = SimpleNamespace(body={"image": base64.b64encode(image.read_bytes())})
    return [(each["label"], each["points"]) for each in json.loads(detector.handler(context, event))]


def ask_as_qupath(server: Server, model: str, image: Path) -> list[Polygon]:
    """What QuPath would be answered: the request that its plugin makes for a PNG or JPEG, and ASAP's XML."""
    asked = {"location": [0, 0], "size": [0, 0], "tile_size": [1024, 1024], "min_poly_area": 30, "params": {}}
    query = {"image": image.stem, "output": "asap"}
    answer = ElementTree.fromstring(server.request("POST", f"/infer/wsi/{model}", params=query, json=asked).content)
    found = []
    for each in answer.iter("Annotation"):
        points = sorted(each.iter("Coordinate"), key=lambda point: int(point.get("Order")))
        found.append((each.get("PartOfGroup"), [(float(point.get("X")), float(point.get("Y"))) for point in points]))
    return found


def ask_as_slicer(server: Server, model: str, image: str) -> np.ndarray:
    """What 3D Slicer would be answered: the request of its module, for NRRD."""
    params = json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8"})
    query = {"image": image, "output": "image"}
    answer = io.BytesIO(server.request("POST", f"/infer/{model}", params=query, data={"params": params}).content)
    return nrrd.read_data(nrrd.read_header(answer), answer).T
