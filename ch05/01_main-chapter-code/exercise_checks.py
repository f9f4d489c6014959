"""What a right answer to each exercise of chapter 5 does, and the hint for each usual mistake."""

import tempfile
from pathlib import Path

import torch

import ch05
from exercises import expect

# ------------------------------------------------------------- the loss, the loop, the run and its head (5.1-5.3, 5.6, 5.7)


# ------------------------------------------------------------------------------- sampling and the cache (5.4, 5.5), scale (5.10)


# ----------------------------------------------------------------------------------------------- checkpoints, data (5.8, 5.9)

def check_write_whole(write_whole) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "model.bin"
        seen: list[tuple] = []

        def pieces(breaks: bool):
            for piece in (b"new ", b"and ", b"whole"):
                seen.append((path.read_bytes() if path.exists() else None, sorted(p.name for p in folder.iterdir())))
                yield piece
            if breaks:
                raise RuntimeError("the machine that makes the pieces broke down")

        path.write_bytes(b"old")
        before = path.stat().st_ino
        raised = False
        try:
            write_whole(path, pieces(breaks=True))
        except RuntimeError:
            raised = True
        expect(bool(seen), "It never asks for a piece; loop over `pieces`.")
        expect(all(old == b"old" for old, _ in seen),
               "While the pieces come, the old file is already gone or half overwritten. Write under another name first.")
        expect(path.exists() and path.read_bytes() == b"old",
               "The pieces broke off, and the old file is not what it was. Rename only after the last piece is written.")
        expect(raised, "The pieces raised an error, and the caller never hears of it. Clean up in `finally`, and let it pass.")
        left = sorted(p.name for p in folder.iterdir() if p != path)
        expect(not left, f"After the error, {left[:1]} is left in the folder. Remove the temporary file in `finally`.")
        expect(all(len(names) == 2 for _, names in seen),
               "While the pieces come, no second file grows beside the old one. Either all pieces are collected in memory, or the "
               "temporary file lies in another folder, perhaps on another disk, where a rename becomes a copy.")
        write_whole(path, pieces(breaks=False))
        expect(path.read_bytes() == b"new and whole",
               f"The pieces b'new ', b'and ', b'whole' should make b'new and whole', but the file holds {path.read_bytes()!r}.")
        expect(path.stat().st_ino != before, "The new content was copied into the old file. Rename instead: os.replace.")
        expect(sorted(p.name for p in folder.iterdir()) == ["model.bin"], "A second file is left in the folder after success.")
        write_whole(folder / "first.bin", pieces(breaks=False))
        expect((folder / "first.bin").exists(), "It should also work where there is no old file.")
    return "That is the trick by which editors, databases and package managers save."


def check_combine(combine) -> str:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=g, dtype=torch.float64), torch.randn(12, generator=g, dtype=torch.float64)
    weight, bias = torch.randn(3, generator=g, dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def gradient(rows: slice) -> list[torch.Tensor]:
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        return list(torch.autograd.grad((x[rows] @ w + b - y[rows]).square().mean(), (w, b)))

    parts, counts = [gradient(slice(0, 2)), gradient(slice(2, 5)), gradient(slice(5, 12))], [2, 3, 7]
    whole, copies = gradient(slice(0, 12)), [[p.clone() for p in part] for part in parts]
    result = combine(parts, counts)
    expect(isinstance(result, list | tuple) and len(result) == 2 and all(isinstance(r, torch.Tensor) for r in result),
           "Return a list with a tensor for each parameter; here there are two parameters and three processes.")
    expect([r.shape for r in result] == [w.shape for w in whole], "Each tensor should have the shape of its parameter.")

    def equals(weights: list[float]) -> bool:
        return all(torch.allclose(r, sum(w * part[i] for w, part in zip(weights, copies))) for i, r in enumerate(result))

    expect(not equals([1 / 3] * 3),
           "That is the mean of means: a target in the smallest share counts more than one in the largest.")
    expect(not equals([1.0] * 3), "That is the sum of the means; it grows with the number of processes.")
    expect(not equals([2.0, 3.0, 7.0]), "These are sums over targets. Divide by the number of all targets at the end.")
    expect(not equals([2 / 3, 3 / 3, 7 / 3]), "Divide by the number of all targets, 12 here, not by that of the processes.")
    expect(not equals([1 / 2, 1 / 3, 1 / 7]), "You divide each gradient by its count; each is a mean already, so multiply.")
    expect(all(torch.allclose(a, b) for a, b in zip(result, whole)),
           "The numbers differ from the gradient over all 12 targets. Weigh each gradient by its count / the sum of counts.")
    unharmed = all(torch.equal(a, b) for part, old in zip(parts, copies) for a, b in zip(part, old))
    expect(unharmed, "The gradients that you were given have changed; make new tensors.")
    return "Chapter 7's batches need it: their answers have all lengths."


CHECKS = {
    "5.8": check_write_whole,
    "5.9": check_combine,
}
