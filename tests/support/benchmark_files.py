"""Small data sets in the official layout of public benchmarks."""

from pathlib import Path

from support.video_files import numbered_frames, write_video

CLASSES = ("Archery", "Biking", "YoYo")


def ucf101(root: Path) -> Path:
    """Write three classes of UCF101 with six clips each. Each of three splits tests two clips per class."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {label}\n" for n, label in enumerate(CLASSES, 1)))
    clips = {label: [f"{label}/v_{label}_g{n:02d}_c01.avi" for n in range(1, 7)] for label in CLASSES}
    for index, names in enumerate(clips.values()):
        for n, name in enumerate(names):
            write_video(root / "UCF-101" / name, numbered_frames(6, seed=10 * index + n % 2), "mpeg4")
    for fold in (1, 2, 3):
        test = {label: names[2 * fold - 2 : 2 * fold] for label, names in clips.items()}
        train = [
            f"{name} {1 + CLASSES.index(k)}" for k, names in clips.items() for name in names if name not in test[k]
        ]
        (lists / f"testlist{fold:02d}.txt").write_text("\n".join(name for names in test.values() for name in names))
        (lists / f"trainlist{fold:02d}.txt").write_text("\n".join(train))
    return root
