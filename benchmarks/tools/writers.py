"""Data sets written and read by other tools, in an environment that has these tools.

`benchmarks/data_tools.py` starts it, once in each environment; it needs nothing of ssd34.

    python writers.py write TRUTH.json FOLDER     every tool that is installed writes the truth
    python writers.py read TOOL FORMAT FOLDER     a tool reads a data set that ssd34 wrote

It prints a line of JSON a case, or the boxes that were read.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

Truth = dict[str, Any]
Case = tuple[str, str, Callable[[Truth, Path], None]]
"""Tool, what it writes, and how."""


def load(name: str) -> Any:
    """A module of a tool."""
    return importlib.import_module(name)


def copy_pictures(truth: Truth, folder: Path, pictures: list[Any] | None = None) -> None:
    """Put the truth's pictures into a folder, as somebody does who has only annotations."""
    for picture in truth["pictures"] if pictures is None else pictures:
        target = folder / picture["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(truth["root"]) / picture["file"], target)


def of_split(truth: Truth, split: str) -> list[Any]:
    """The pictures of a split."""
    return [picture for picture in truth["pictures"] if picture["split"] == split]


def corners(box: list[Any]) -> tuple[float, float, float, float]:
    """A box of the truth as xyxy."""
    _, x, y, w, h = box
    return x, y, x + w, y + h


# datumaro --------------------------------------------------------------------------------------


def datumaro(form: str, *, divided: bool = True, **options: Any) -> Callable[[Truth, Path], None]:
    """Through its exporter of that name."""

    def write(truth: Truth, folder: Path) -> None:
        dm = load("datumaro")
        items = [
            dm.DatasetItem(
                id=str(PurePosixPath(picture["file"]).with_suffix("")),
                subset=picture["split"] if divided else "default",
                media=dm.Image.from_file(path=str(Path(truth["root"]) / picture["file"])),
                annotations=[
                    dm.Bbox(*box[1:], label=truth["classes"].index(box[0]), id=k, group=k)
                    for k, box in enumerate(picture["boxes"], start=1)
                ],
            )
            for picture in truth["pictures"]
        ]
        dataset = dm.Dataset.from_iterable(items, categories=truth["classes"])
        dataset.export(str(folder), form, save_media=True, **options)

    return write


def read_datumaro(form: str, folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Import a folder."""
    dm = load("datumaro")
    names = {"coco": "coco", "voc": "voc", "yolo": "yolo"}
    dataset = dm.Dataset.import_from(str(folder), names[form])
    labels = dataset.categories()[dm.AnnotationType.label]
    for item in dataset:
        boxes = [a for a in item.annotations if a.type == dm.AnnotationType.bbox]
        yield item.id, [[labels[a.label].name, a.x, a.y, a.w, a.h] for a in boxes]


# supervision -----------------------------------------------------------------------------------


def supervision_data(truth: Truth, pictures: list[Any]) -> Any:
    """A DetectionDataset."""
    sv, np = load("supervision"), load("numpy")
    paths = [str(Path(truth["root"]) / picture["file"]) for picture in pictures]
    found = {}
    for path, picture in zip(paths, pictures, strict=True):
        boxes = np.array([corners(b) for b in picture["boxes"]], float).reshape(-1, 4)
        numbers = np.array([truth["classes"].index(b[0]) for b in picture["boxes"]], int)
        found[path] = sv.Detections(xyxy=boxes, class_id=numbers)
    return sv.DetectionDataset(truth["classes"], paths, found)


def supervision(form: str, divided: bool) -> Callable[[Truth, Path], None]:
    """The layouts of its documentation, for the whole or a folder a split."""

    def write(truth: Truth, folder: Path) -> None:
        parts = ["train", "val"] if divided else [""]
        for part in parts:
            pictures = of_split(truth, part) if part else truth["pictures"]
            data, place = supervision_data(truth, pictures), folder / part
            if form == "voc":
                data.as_pascal_voc(str(place / "images"), str(place / "annotations"))
            elif form == "coco":
                data.as_coco(str(place / "images"), str(place / "annotations.json"))
            elif form == "yolo":
                data.as_yolo(
                    str(place / "images"), str(place / "labels"), str(folder / "data.yaml")
                )
            elif form == "labelme":
                data.as_labelme(str(place), str(place))
            else:
                data.as_createml(str(place), str(place / "annotations.json"))

    return write


def read_supervision(form: str, folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Of an undivided data set, or its split train."""
    sv = load("supervision")
    if form == "coco":
        file = folder / "annotations" / "instances_default.json"
        data = sv.DetectionDataset.from_coco(str(folder / "images" / "default"), str(file))
    elif form == "voc":
        data = sv.DetectionDataset.from_pascal_voc(
            str(folder / "JPEGImages"), str(folder / "Annotations")
        )
    else:
        data = sv.DetectionDataset.from_yolo(
            str(folder / "images" / "train"), str(folder / "labels" / "train"),
            str(folder / "data.yaml"),
        )  # fmt: skip
    for path, _, found in data:
        rows = zip(found.class_id, found.xyxy.tolist(), strict=True)
        yield (
            Path(path).stem,
            [[data.classes[c], x, y, r - x, b - y] for c, (x, y, r, b) in rows],
        )


# globox ----------------------------------------------------------------------------------------


def globox_data(truth: Truth) -> Any:
    """An AnnotationSet."""
    globox = load("globox")
    return globox.AnnotationSet(
        globox.Annotation(
            picture["file"],
            (picture["width"], picture["height"]),
            [
                globox.BoundingBox.create(
                    label=b[0], coords=tuple(b[1:]), box_format=globox.BoxFormat.LTWH
                )
                for b in picture["boxes"]
            ],
        )
        for picture in truth["pictures"]
    )


def globox(method: str, place: str, pictures: str = "images") -> Callable[[Truth, Path], None]:
    """One of its save methods, the pictures put beside."""

    def write(truth: Truth, folder: Path) -> None:
        copy_pictures(truth, folder / pictures)
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"auto_ids": True} if method == "save_coco" else {}
        if method == "save_via_json":
            options["image_folder"] = folder / pictures
        if "yolo" in method:
            options["label_to_id"] = {name: k for k, name in enumerate(truth["classes"])}
            (folder / "classes.txt").write_text("\n".join(truth["classes"]))
        getattr(globox_data(truth), method)(target, **options)

    return write


def read_globox(form: str, folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Of an undivided data set, or its split train."""
    globox = load("globox")
    if form == "coco":
        data = globox.AnnotationSet.from_coco(folder / "annotations" / "instances_default.json")
    elif form == "voc":
        data = globox.AnnotationSet.from_pascal_voc(folder / "Annotations")
    else:
        data = globox.AnnotationSet.from_yolo_v5(
            folder / "labels" / "train", image_folder=folder / "images" / "train"
        )
    for found in data:
        yield Path(found.image_id).stem, [[b.label, *b.ltwh] for b in found.boxes]


# labelformat -----------------------------------------------------------------------------------


def labelformat(form: str) -> Callable[[Truth, Path], None]:
    """Its converter, from a COCO file."""

    def write(truth: Truth, folder: Path) -> None:
        coco = load("labelformat.formats.coco")
        file = folder.parent / f"{folder.name}.json"
        file.write_text(json.dumps(coco_values(truth, truth["pictures"])))
        source = coco.COCOObjectDetectionInput(input_file=file)
        file.unlink()
        if form == "coco":
            copy_pictures(truth, folder / "images")
            out = coco.COCOObjectDetectionOutput(output_file=folder / "annotations.json")
        elif form == "voc":
            module = load("labelformat.formats.pascalvoc")
            copy_pictures(truth, folder / "images")
            for picture in truth["pictures"]:
                (folder / "Annotations" / picture["file"]).parent.mkdir(parents=True, exist_ok=True)
            out = module.PascalVOCObjectDetectionOutput(output_folder=folder / "Annotations")
        elif form == "kitti":
            module = load("labelformat.formats.kitti")
            copy_pictures(truth, folder / "image_2")
            out = module.KittiObjectDetectionOutput(output_folder=folder / "label_2")
        else:
            module = load("labelformat.formats.yolov8")
            copy_pictures(truth, folder / "images")
            out = module.YOLOv8ObjectDetectionOutput(
                output_file=folder / "data.yaml", output_split="train"
            )
        out.save(label_input=source)

    return write


def coco_values(truth: Truth, pictures: list[Any], first: int = 1) -> dict[str, Any]:
    """The truth as COCO has it, for the tools that begin with that; classes count from `first`."""
    rows = [(k, box) for k, p in enumerate(pictures, start=1) for box in p["boxes"]]
    return {
        "images": [
            {"id": k, "file_name": p["file"], "width": p["width"], "height": p["height"]}
            for k, p in enumerate(pictures, start=1)
        ],
        "annotations": [
            {
                "id": n, "image_id": k, "category_id": truth["classes"].index(box[0]) + first,
                "bbox": box[1:], "area": box[3] * box[4], "iscrowd": 0, "segmentation": [],
            }
            for n, (k, box) in enumerate(rows, start=1)
        ],
        "categories": [
            {"id": k, "name": name, "supercategory": "none"}
            for k, name in enumerate(truth["classes"], start=first)
        ],
    }  # fmt: skip


# pylabel ---------------------------------------------------------------------------------------


def pylabel(form: str) -> Callable[[Truth, Path], None]:
    """Its exporters, from a COCO file with the pictures beside."""

    def write(truth: Truth, folder: Path) -> None:
        importer = load("pylabel.importer")
        copy_pictures(truth, folder / "images")
        file = folder / "source.json"
        file.write_text(json.dumps(coco_values(truth, truth["pictures"])))
        data = importer.ImportCoco(str(file), path_to_images="images")
        file.unlink()
        if form == "coco":
            data.export.ExportToCoco(str(folder / "annotations.json"))
        elif form == "voc":
            data.export.ExportToVoc(str(folder / "annotations"))
        else:
            data.path_to_annotations = str(folder)
            here = Path.cwd()
            os.chdir(folder)
            try:
                data.export.ExportToYoloV5("training/labels", copy_images=True, cat_id_index=0)
            finally:
                os.chdir(here)
            shutil.rmtree(folder / "images")

    return write


# sahi ------------------------------------------------------------------------------------------


def sahi(form: str) -> Callable[[Truth, Path], None]:
    """Its Coco, from a COCO file; YOLO with links to the pictures, as it makes them."""

    def write(truth: Truth, folder: Path) -> None:
        module, saved = load("sahi.utils.coco"), load("sahi.utils.file")
        folder.mkdir(parents=True)
        copy_pictures(truth, folder / "pictures")
        file = folder / "truth.json"
        file.write_text(json.dumps(coco_values(truth, truth["pictures"], first=0)))
        coco = module.Coco.from_coco_dict_or_path(str(file), image_dir=str(folder / "pictures"))
        file.unlink()
        if form == "coco":
            saved.save_json(coco.json, str(folder / "coco.json"))
        elif form == "yolo":
            coco.export_as_yolo(str(folder / "yolo"), train_split_rate=0.5, disable_symlink=True)
            shutil.rmtree(folder / "pictures")
        else:
            coco.export_as_yolo(str(folder / "yolo"), train_split_rate=0.5)

    return write


# pascal_voc_writer and labelImg ----------------------------------------------------------------


def pascal_voc_writer(pictures: str, annotations: str) -> Callable[[Truth, Path], None]:
    """A file a picture."""

    def write(truth: Truth, folder: Path) -> None:
        module = load("pascal_voc_writer")
        copy_pictures(truth, folder / pictures)
        for picture in truth["pictures"]:
            path = folder / pictures / picture["file"]
            writer = module.Writer(str(path), picture["width"], picture["height"])
            for box in picture["boxes"]:
                writer.addObject(box[0], *corners(box))
            target = (folder / annotations / picture["file"]).with_suffix(".xml")
            target.parent.mkdir(parents=True, exist_ok=True)
            writer.save(str(target))

    return write


def label_img(form: str, beside: bool) -> Callable[[Truth, Path], None]:
    """As its window saves: nothing for a picture that nobody labelled."""

    def write(truth: Truth, folder: Path) -> None:
        pictures = "" if beside else "images"
        labels = "" if beside else "labels" if form == "yolo" else "Annotations"
        copy_pictures(truth, folder / pictures)
        for picture in truth["pictures"]:
            if not picture["boxes"]:
                continue
            size = (picture["height"], picture["width"], 3)
            target = (folder / labels / picture["file"]).with_suffix("")
            target.parent.mkdir(parents=True, exist_ok=True)
            name = Path(picture["file"]).name
            here = str(folder / pictures / picture["file"])
            if form == "voc":
                writer = load("libs.pascal_voc_io").PascalVocWriter(
                    target.parent.name, name, size, local_img_path=here
                )
                for box in picture["boxes"]:
                    writer.add_bnd_box(*map(int, corners(box)), box[0], 0)
                writer.save(f"{target}.xml")
            elif form == "yolo":
                writer = load("libs.yolo_io").YOLOWriter(
                    target.parent.name, name, size, local_img_path=here
                )
                for box in picture["boxes"]:
                    writer.add_bnd_box(*map(int, corners(box)), box[0], 0)
                writer.save(list(truth["classes"]), f"{target}.txt")

    return write


# Label Studio ----------------------------------------------------------------------------------


def label_studio(module: str, form: str) -> Callable[[Truth, Path], None]:
    """Its converter on a project's JSON, the pictures uploaded to the server."""

    def write(truth: Truth, folder: Path) -> None:
        converter = load(f"{module}.converter") if "sdk" not in module else load(
            "label_studio_sdk.converter.converter")  # fmt: skip
        upload = folder.parent / "upload"
        copy_pictures(truth, upload)
        labels = "".join(f'<Label value="{name}"/>' for name in truth["classes"])
        config = (
            '<View><Image name="image" value="$image"/><RectangleLabels name="label" '
            f'toName="image">{labels}</RectangleLabels></View>'
        )
        tasks = [_task(k, picture) for k, picture in enumerate(truth["pictures"], start=1)]
        folder.mkdir(parents=True)
        if form in ("json", "json_min"):
            copy_pictures(truth, folder / "images")
        file = folder.parent / "tasks.json"
        file.write_text(json.dumps(tasks))
        made = converter.Converter(config, str(upload), upload_dir=str(upload),
                                   download_resources=form != "coco_without_pictures")  # fmt: skip
        if form.startswith("coco"):
            made.convert_to_coco(str(file), str(folder), is_dir=False)
        elif form == "voc":
            made.convert_to_voc(str(file), str(folder), is_dir=False)
        elif form == "yolo":
            made.convert_to_yolo(str(file), str(folder), is_dir=False)
        elif form == "json":
            shutil.copy(file, folder / "result.json")
        else:
            made.convert_to_json_min(str(file), str(folder), is_dir=False)
        if not any((folder / "images").rglob("*.*")):  # where it found none on its server
            for picture in truth["pictures"]:  # in its exports no picture is in a folder
                shutil.copy(Path(truth["root"]) / picture["file"], folder / "images")

    return write


def _task(number: int, picture: Any) -> dict[str, Any]:
    width, height = picture["width"], picture["height"]
    results = [
        {
            "id": f"r{k}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
            "original_width": width, "original_height": height, "image_rotation": 0,
            "value": {
                "x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width,
                "height": 100 * h / height, "rotation": 0, "rectanglelabels": [name],
            },
        }
        for k, (name, x, y, w, h) in enumerate(picture["boxes"])
    ]  # fmt: skip
    return {
        "id": number,
        "data": {"image": f"/data/upload/{picture['file']}"},
        "annotations": [{"id": number, "completed_by": 1, "result": results}],
        "predictions": [],
    }


CASES: tuple[Case, ...] = (
    ("datumaro", "voc", datumaro("voc")),
    ("datumaro", "voc undivided", datumaro("voc", divided=False)),
    ("datumaro", "voc_detection", datumaro("voc_detection")),
    ("datumaro", "coco", datumaro("coco")),
    ("datumaro", "coco_instances", datumaro("coco_instances")),
    ("datumaro", "coco_instances undivided", datumaro("coco_instances", divided=False)),
    ("datumaro", "yolo", datumaro("yolo")),
    ("datumaro", "yolo undivided", datumaro("yolo", divided=False)),
    ("datumaro", "yolo_ultralytics", datumaro("yolo_ultralytics")),
    ("datumaro", "?datumaro", datumaro("datumaro")),
    ("datumaro", "?cvat", datumaro("cvat")),
    ("datumaro", "?label_me", datumaro("label_me")),
    ("datumaro", "?kitti", datumaro("kitti_detection")),
    ("datumaro", "?open_images", datumaro("open_images")),
    ("datumaro", "?wider_face", datumaro("wider_face")),
    ("datumaro", "?dota", datumaro("dota")),
    ("supervision", "voc", supervision("voc", False)),
    ("supervision", "voc a folder a split", supervision("voc", True)),
    ("supervision", "coco", supervision("coco", False)),
    ("supervision", "coco a folder a split", supervision("coco", True)),
    ("supervision", "yolo", supervision("yolo", False)),
    ("supervision", "yolo a folder a split", supervision("yolo", True)),
    ("supervision", "?labelme", supervision("labelme", False)),
    ("supervision", "?createml", supervision("createml", False)),
    ("globox", "voc", globox("save_pascal_voc", "Annotations")),
    ("globox", "voc beside", globox("save_pascal_voc", "images")),
    ("globox", "coco", globox("save_coco", "annotations.json")),
    ("globox", "coco beside", globox("save_coco", "images/labels.json")),
    ("globox", "yolo", globox("save_yolo_v5", "labels")),
    ("globox", "yolo beside", globox("save_yolo_darknet", "images")),
    ("globox", "?cvat", globox("save_cvat", "annotations.xml")),
    ("globox", "?labelme", globox("save_labelme", "images")),
    ("globox", "?open_images", globox("save_openimage", "annotations.csv")),
    ("globox", "?via", globox("save_via_json", "via.json")),
    ("labelformat", "voc", labelformat("voc")),
    ("labelformat", "coco", labelformat("coco")),
    ("labelformat", "yolo", labelformat("yolo")),
    ("labelformat", "?kitti", labelformat("kitti")),
    ("pylabel", "voc", pylabel("voc")),
    ("pylabel", "coco", pylabel("coco")),
    ("pylabel", "yolo", pylabel("yolo")),
    ("sahi", "coco", sahi("coco")),
    ("sahi", "yolo", sahi("yolo")),
    ("sahi", "yolo links", sahi("links")),
    ("pascal_voc_writer", "voc", pascal_voc_writer("JPEGImages", "Annotations")),
    ("pascal_voc_writer", "voc beside", pascal_voc_writer("", "")),
    ("labelImg", "voc beside", label_img("voc", True)),
    ("labelImg", "voc", label_img("voc", False)),
    ("labelImg", "yolo beside", label_img("yolo", True)),
    ("labelImg", "yolo", label_img("yolo", False)),
    *(
        (tool, form, label_studio(module, form.strip("?").replace(" ", "_")))
        for tool, module in (
            ("label-studio-sdk", "label_studio_sdk"),
            ("label-studio-converter", "label_studio_converter"),
        )
        for form in ("voc", "coco", "coco without pictures", "yolo", "?json", "?json min")
    ),
)
"""A form that begins with ? is one that ssd34 does not read, but names."""

READERS = {
    "datumaro": read_datumaro, "supervision": read_supervision, "globox": read_globox
}  # fmt: skip


def installed(tool: str) -> str | None:
    """The version of a tool."""
    try:
        return version(tool)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_all(truth: Truth, out: Path) -> Iterator[dict[str, Any]]:
    """Every case of every tool that is installed."""
    for tool, form, write in CASES:
        found = installed(tool)
        if found is None:
            continue
        name = f"{tool} {form}".replace("?", "").replace(" ", "-")
        folder = out / name / "set"
        folder.parent.mkdir(parents=True)
        error = ""
        try:
            write(truth, folder)
        except Exception as caught:  # a tool that cannot write this truth is a finding, too
            error = f"{type(caught).__name__}: {caught}".splitlines()[0][:200]
        yield {
            "tool": tool, "version": found, "form": form, "folder": str(folder), "error": error
        }  # fmt: skip


def main() -> None:
    """See above."""
    task, *rest = sys.argv[1:]
    rows: list[Any]
    with Path(os.devnull).open("w") as silent, redirect_stdout(silent):
        if task == "write":
            truth = json.loads(Path(rest[0]).read_text(encoding="utf-8"))
            rows = list(write_all(truth, Path(rest[1])))
        elif task == "versions":
            rows = [[tool, installed(tool)] for tool in dict.fromkeys(case[0] for case in CASES)]
        else:
            tool, form, folder = rest
            rows = list(READERS[tool](form, Path(folder)))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
