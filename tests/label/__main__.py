"""Do the packed bundles work in a MONAI Label server? Asked of a real one, over REST; ends with 1 if anything is amiss.

    python -m tests.label [--packer PYTHON] [--work DIR]

by the Python that has MONAI Label (``make label`` makes it); `--packer` names the one that has the collection.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image, ImageDraw

from tests.label import material
from tests.label.server import REPOSITORY, Server, ask_as_cvat, ask_as_qupath, ask_as_slicer

SEGMENTERS = ("order_brisc", "order_polyps")
LABELLED = 16  # of the images; the others stay for what is least certain
EPOCHS = 12
RETRAINED = "retrained.pt"


class Check:
    """The steps, each with what it found; the first that fails ends all."""

    def __init__(self, work: Path, packer: str) -> None:
        self.work, self.packer = work, packer
        self.studies, self.models = work / "studies", work / "app" / "model"
        self.rows: list[tuple[str, str, float]] = []
        self.masks: dict[str, Path] = {}
        self.runs: dict[str, dict[str, np.ndarray]] = {}
        self.plain: dict[str, dict[str, np.ndarray]] = {}  # of the collection as it is

    def step(self, name: str, action: Callable[[], str]) -> None:
        """Do a step and tell what it found."""
        begun = time.monotonic()
        found = action()
        self.rows.append((name, found, time.monotonic() - begun))
        print(f"ok    {name}: {found} ({self.rows[-1][2]:.0f} s)", flush=True)

    def prepare(self) -> str:
        """Five bundles, one of them packed from a changed collection; and images of every kind."""
        material.pack(self.packer, "all", self.work / "zips")
        material.pack_changed(self.packer, self.work, self.work / "zips_changed")
        material.unpack(self.work / "zips", self.models)
        self.own = material.package_of(self.models / material.CHANGED)
        shutil.rmtree(self.models / material.CHANGED)
        material.unpack(self.work / "zips_changed", self.models, (material.CHANGED,))
        shutil.copy(REPOSITORY / "bundles" / "label_app" / "main.py", self.models.parent)
        self.masks = material.draw_images(self.packer, self.work, self.studies)
        packages = {material.package_of(self.models / name) for name in material.NAMES}
        expect(len(packages) == 5 and self.own not in packages, f"five packages of different names, not {packages}")
        return f"{len(packages)} bundles, {len(self.masks)} images"

    def run_bundles(self) -> str:
        """What ``monai.bundle run`` writes, of each segmenter and of the unchanged one."""
        for name in SEGMENTERS:
            self.runs[name] = material.run_masks(self.models / name, self.studies, self.work / f"run_{name}")
        material.unpack(self.work / "zips", self.work / "unchanged", (material.CHANGED,))
        plain = material.run_masks(
            self.work / "unchanged" / material.CHANGED, self.studies, self.work / "run_unchanged"
        )
        self.plain = {"order_polyps": self.runs["order_polyps"], material.CHANGED: plain}
        apart = sum(bool((plain[image] != mask).any()) for image, mask in self.runs[material.CHANGED].items())
        expect(apart == len(self.masks), "the changed constant shows in each mask")
        return f"{sum(map(len, self.runs.values()))} masks; {apart} of {len(plain)} show the changed constant"

    def stock_app(self) -> str:
        """MONAI Label's own app for bundles takes all five at once, those that paint too."""
        app = self.work / "stock"
        shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
        (app / "model").symlink_to(self.models)
        conf = {"models": ",".join(material.NAMES), "zoo_source": "local", "sam2": "false"}
        with Server(app, self.studies, conf, self.work / "stock.log") as server:
            offered = server.info()
            expect(sorted(offered["models"]) == sorted(material.NAMES), f"five models, not {list(offered['models'])}")
            equal = self._compare(server, ("odd", "tall"))
        expect_no_traceback(self.work / "stock.log")
        return f"{len(offered['models'])} models in one server, {equal} masks equal to the pixel"

    def code_free(self) -> str:
        """Those without Python: the masks of the full ones, but of transparency; nothing to train."""
        app = self.work / "code_free"
        material.pack(self.packer, "all", self.work / "zips_code_free", options=("--code_free",))
        free = {name: f"{name}_code_free" for name in SEGMENTERS}
        material.unpack(self.work / "zips_code_free", app / "model", tuple(free.values()))
        shutil.copy(REPOSITORY / "bundles" / "label_app" / "main.py", app)
        with Server(app, self.studies, {}, self.work / "code_free.log") as server:
            offered = server.info()
            expect(sorted(offered["models"]) == sorted(free.values()), f"models: {list(offered['models'])}")
            expect(offered["trainers"] == {}, f"trainers: {list(offered['trainers'])}")
            equal = 0
            for name, package in free.items():
                for image in sorted(self.masks.keys() - {"rgba"}):
                    expect_equal(server.infer(package, image), self.plain[name][image], f"{package}, {image}")
                    equal += 1
        expect_no_traceback(self.work / "code_free.log")
        return f"{equal} answers equal to what monai.bundle run of the full ones writes"

    def offers(self, server: Server) -> str:
        """The collection's app offers what segments, and trains it."""
        info = server.info()
        for part in ("models", "trainers"):
            expect(sorted(info[part]) == sorted(SEGMENTERS), f"{part}: {list(info[part])}")
        labels = {name: list(info["models"][name]["labels"]) for name in SEGMENTERS}
        expect(labels == {"order_brisc": ["tumour"], "order_polyps": ["polyp"]}, f"labels: {labels}")
        expect({f"least_certain_{name}" for name in SEGMENTERS} <= set(info["strategies"]), "strategies")
        return f"{', '.join(info['models'])}; strategies {', '.join(info['strategies'])}"

    def compare(self, server: Server) -> str:
        """By id and by upload, PNG and JPEG of every kind: equal to the run to the pixel; and as 3D Slicer asks."""
        equal = self._compare(server, self.masks)
        for name in SEGMENTERS:
            expect_equal(ask_as_slicer(server, name, "odd"), self.runs[name]["odd"], f"{name}, NRRD")
        return f"{equal} answers equal to monai.bundle run to the pixel; so is NRRD, as 3D Slicer asks for it"

    def _compare(self, server: Server, images: list[str] | tuple[str, ...] | dict) -> int:
        count = 0
        for name in SEGMENTERS:
            for image in images:
                (path,) = self.studies.glob(f"{image}.*")
                for asked in (image, path):
                    expect_equal(server.infer(name, asked), self.runs[name][image], f"{name}, {asked}")
                    count += 1
        return count

    def least_certain(self, server: Server) -> str:
        """The strategy serves the images in the order of the entropy that is computed here anew."""
        status, details = server.wait("scoring")
        expect(status == "DONE", "\n".join(details))
        entropies = self._entropies("order_polyps")
        order = sorted(entropies, key=entropies.get, reverse=True)
        served = [server.next_image("least_certain_order_polyps") for _ in range(3)]
        expect(served == order[:3], f"served {served}, not {order[:3]}")
        told = ", ".join(f"{image} {entropies[image]:.2f}" for image in served)
        return f"{told} bits a pixel of lesion; the surest has {entropies[order[-1]]:.2f}"

    def _entropies(self, name: str) -> dict[str, float]:
        config = ConfigParser()
        config.read_config(self.models / name / "configs" / "inference.json")
        config["bundle_root"], config["device"] = str(self.models / name), "cpu"
        sys.path.append(str(self.models / name))
        preprocessing, inferer = (config.get_parsed_content(part) for part in ("preprocessing", "inferer"))
        network = config.get_parsed_content("network").eval()
        found = {}
        for image in self.masks:
            (path,) = self.studies.glob(f"{image}.*")
            batch = preprocessing({"image": str(path)})["image"][None]
            with torch.no_grad():
                lesion = inferer(batch, network).as_tensor().sigmoid().double()
            bits = torch.special.entr(lesion) + torch.special.entr(1 - lesion)
            found[image] = float(bits.sum() / np.log(2) / lesion.sum().clamp(min=1))
        return found

    def outlines(self, server: Server) -> str:
        """What the clients for CVAT and QuPath are answered: polygons, that are the mask's."""
        lowest = {}
        for client, ask in (("CVAT", ask_as_cvat), ("QuPath", ask_as_qupath)):
            overlaps = []
            for image in ("odd", "tall"):
                (path,) = self.studies.glob(f"{image}.*")
                drawn = Image.new("L", Image.open(path).size)
                for label, polygon in ask(server, "order_polyps", path):
                    expect(label == "polyp", f"{client}: {label}")
                    ImageDraw.Draw(drawn).polygon(polygon, fill=1, outline=1)
                overlaps.append(dice(np.asarray(drawn) > 0, self.runs["order_polyps"][image] > 0))
            # CVAT's function sends the image on as a JPEG, so that a pixel here and there is another.
            lowest[client] = min(overlaps)
            expect(lowest[client] > 0.9, f"{client}: the polygons are not the mask's: {overlaps}")
        return ", ".join(f"{client} {overlap:.3f}" for client, overlap in lowest.items()) + " Dice of polygons and mask"

    def refuse(self, server: Server) -> str:
        """A label of another size than its image: one line, and nothing is changed."""
        self._label(server)
        wrong = self.work / "wrong.png"
        Image.new("L", (64, 64), 255).save(wrong)
        server.save_label("odd", wrong)
        status, details = server.train("order_polyps", max_epochs=1)
        server.save_label("odd", self.masks["odd"])
        told = [line for line in details if "error: " in line]
        expect(status == "ERROR" and len(told) == 1 and "odd" in told[0], f"{status}: {details}")
        expect(not (self.models / "order_polyps" / "models" / RETRAINED).exists(), "no weights of a failed training")
        return told[0]

    def _label(self, server: Server) -> None:
        for image in list(self.masks)[:LABELLED]:
            server.save_label(image, self.masks[image])

    def train(self, server: Server) -> str:
        """Training over REST: real, from the weights that ship, which stay; and better on what it was trained on."""
        bundle = self.models / "order_polyps"
        shipped = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
        status, details = server.train("order_polyps", max_epochs=EPOCHS)
        expect(status == "DONE", "\n".join(details))
        expect(hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest() == shipped, "model.pt stays")
        retrained = bundle / "models" / RETRAINED
        expect(not (bundle / "models" / "retraining" / "data").exists(), "no copy of an image stays")
        run = material.run_masks(bundle, self.studies, self.work / "run_retrained", checkpoint=str(retrained))
        before, after = [], []
        for image, mask in self.masks.items():
            answer = server.infer("order_polyps", image)
            expect_equal(answer, run[image], f"retrained, {image}")
            kept = server.infer("order_polyps", image, '{"model_filename": "model.pt"}')
            expect_equal(kept, self.runs["order_polyps"][image], f"shipped, {image}")
            if image in list(self.masks)[:LABELLED]:
                drawn = np.asarray(Image.open(mask)) > 127
                before.append(dice(kept > 0, drawn))
                after.append(dice(answer > 0, drawn))
        expect(np.mean(after) > np.mean(before), f"Dice {np.mean(before):.3f} → {np.mean(after):.3f}")
        told = next(line for line in details if "mean Dice on the validation images" in line)
        validation = re.search(r"[\d.]+ → [\d.]+", told)[0]
        labelled = f"{np.mean(before):.3f} → {np.mean(after):.3f}"
        return f"Dice of the labelled {labelled}, of those for validation {validation}; model.pt as it was"

    def rescored(self, server: Server) -> str:
        """After the training the images without a label are scored by the new weights."""
        status, _ = server.wait("scoring")
        expect(status == "DONE", status)
        image = server.next_image("least_certain_order_polyps")
        expect(image in list(self.masks)[LABELLED:], f"{image} has a label already")
        info = server.request("GET", "/datastore/image/info", params={"image": image}).json()
        expect(RETRAINED in info["order_polyps_weights"], f"scored by {info['order_polyps_weights']}")
        return f"{image}, {info['order_polyps_entropy']:.2f}"

    def all(self) -> None:
        """All steps."""
        self.step("pack and unpack", self.prepare)
        self.step("monai.bundle run", self.run_bundles)
        self.step("MONAI Label's own app", self.stock_app)
        self.step("without Python", self.code_free)
        log = self.work / "server.log"
        with Server(self.models.parent, self.studies, {}, log) as server:
            self.step("the collection's app", lambda: self.offers(server))
            self.step("infer", lambda: self.compare(server))
            self.step("least certain first", lambda: self.least_certain(server))
            self.step("polygons for CVAT, QuPath", lambda: self.outlines(server))
            self.step("a wrong label", lambda: self.refuse(server))
            self.step("train, infer", lambda: self.train(server))
            self.step("least certain after it", lambda: self.rescored(server))
        expect_no_traceback(log)
        print(f"all {len(self.rows)} steps passed in {sum(row[2] for row in self.rows):.0f} s")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    both = one.sum() + other.sum()
    return 2 * (one & other).sum() / both if both else 1.0


def expect(holds: bool, what: str) -> None:
    """End the check where something does not hold."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def expect_equal(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Equal in size and every pixel, and a mask."""
    same = found.shape == wanted.shape and bool((found == wanted).all())
    expect(same and set(np.unique(found)) <= {0, 255}, f"{what}: {found.shape} is not the run's mask {wanted.shape}")


def expect_no_traceback(log: Path) -> None:
    """Nothing in a server's log went wrong."""
    text = log.read_text(errors="replace")
    expect("Traceback" not in text, text[max(0, text.find("Traceback") - 200) :][:3000])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--packer", default=str(REPOSITORY / ".venv/bin/python"))
    parser.add_argument("--work", type=Path, help="a new folder, which stays; by default one that goes")
    arguments = parser.parse_args()
    packer = str(Path(arguments.packer).absolute())  # not resolved: it is a link, and its folder tells its packages
    logging.disable(logging.INFO)  # MONAI Label's client and CVAT's function tell each step
    if arguments.work:
        arguments.work.mkdir(parents=True)
        Check(arguments.work.resolve(), packer).all()
    else:
        with tempfile.TemporaryDirectory() as folder:
            Check(Path(folder), packer).all()
