"""TIFF files of every number of bits, kind of samples, alpha and photometric interpretation."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

from tests.support.odd_samples import ALPHA, GREY, RGB, SIZE, Odd, bits8, full, little, saved, seen, with_alpha
from tests.support.picture_writers import packed, tiff, two_pages


def tiffs() -> dict[str, Odd]:
    found = {}
    for order, kind in (("<", "<u2"), (">", ">u2")):
        name = {"<": "little", ">": "big"}[order]
        for squeezed in (False, True):
            mark = f"{name}{'_zip' * squeezed}"
            options = {"order": order, "compressed": squeezed}
            found[f"rgb16_{mark}"] = Odd(
                tiff(little(full(RGB, 65535), kind), SIZE, (16,) * 3, 2, **options), seen(RGB), 0
            )
            for extra in (0, 1, 2):
                shares = RGB * ALPHA[..., None] if extra == 1 else RGB
                pixels = little(with_alpha(shares, 65535), kind)
                wanted = seen(RGB) if extra == 0 else seen(RGB, ALPHA)
                found[f"rgba16_extra{extra}_{mark}"] = Odd(
                    tiff(pixels, SIZE, (16,) * 4, 2, {338: (3, [extra])}, **options), wanted
                )
            found[f"rgba16_{mark}"] = Odd(
                tiff(little(with_alpha(RGB, 65535), kind), SIZE, (16,) * 4, 2, **options), "unknown_colours"
            )
            opaque = with_alpha(RGB, 65535, np.ones((8, 8)))
            found[f"rgba16_opaque_{mark}"] = Odd(
                tiff(little(opaque, kind), SIZE, (16,) * 4, 2, **options), seen(RGB), 0
            )
            found[f"grey16_{mark}"] = Odd(
                tiff(little(full(GREY, 65535), kind), SIZE, (16,), 1, **options), seen(GREY), 0
            )
            inks = with_alpha(1 - RGB, 65535, np.zeros((8, 8)))
            found[f"cmyk16_{mark}"] = Odd(tiff(little(inks, kind), SIZE, (16,) * 4, 5, **options), seen(RGB))
    found["cmyk8"] = Odd(tiff(little(with_alpha(1 - RGB, 255, np.zeros((8, 8))), "u1"), SIZE, (8,) * 4, 5), seen(RGB))
    inks = little(with_alpha(1 - RGB, 255, np.zeros((8, 8))), "u1")
    found["other_inks"] = Odd(tiff(inks, SIZE, (8,) * 4, 5, {332: (3, [2])}), "unsupported_pixels")
    for bits in (1, 2, 4, 8, 12, 16):
        white, samples = 2**bits - 1, full(GREY, 2**bits - 1)
        for photometric in (0, 1):
            given = samples if photometric else white - samples
            pixels = little(given) if bits == 16 else b"".join(packed(row, bits) for row in given)
            name = f"grey{bits}{'' if photometric else '_white_is_zero'}"
            refused = (bits, photometric) == (12, 0)
            found[name] = Odd(
                tiff(pixels, SIZE, (bits,), photometric), "unreadable_image" if refused else seen(samples / white), 0
            )
    for extra in (0, 1, 2):
        tags = {338: (3, [extra])}
        for name, shares in (("grey", GREY), ("rgb", RGB)):
            own = shares * (ALPHA if shares.ndim == 2 else ALPHA[..., None]) if extra == 1 else shares
            samples = with_alpha(own, 255)
            bits = (8,) * samples.shape[2]
            wanted = seen(shares) if extra == 0 else seen(shares, ALPHA)
            found[f"{name}_extra{extra}"] = Odd(
                tiff(little(samples, "u1"), SIZE, bits, 1 if name == "grey" else 2, tags), wanted, 2
            )
    found["rgba_unsaid"] = Odd(tiff(little(with_alpha(RGB, 255), "u1"), SIZE, (8,) * 4, 2), "unknown_colours")
    found |= numbers() | tiff_colours()
    return found


def numbers() -> dict[str, Odd]:
    """Signed, float and 32-bit samples: TIFF."""
    said = {340: (12, [-100.0]), 341: (12, [27.0])}
    signed8 = np.rint(GREY * 127 - 100).astype(np.int8)
    kinds = {
        "int8": (signed8.tobytes(), 8, 2), "int16": (little(full(GREY, 127) - 100, "<i2"), 16, 2),
        "int32": (little(full(GREY, 127) - 100, "<i4"), 32, 2), "float": (little(GREY * 127 - 100, "<f4"), 32, 3),
    }  # fmt: skip
    found = {}
    for name, (pixels, bits, kind) in kinds.items():
        tags = {339: (3, [kind])}
        found[name] = Odd(tiff(pixels, SIZE, (bits,), 1, tags), "unknown_range")
        found[f"{name}_said"] = Odd(tiff(pixels, SIZE, (bits,), 1, tags | said), seen(full(GREY, 127) / 127))
    unit = {339: (3, [3]), 340: (11, [0.0]), 341: (11, [1.0])}
    found["float_unit"] = Odd(tiff(little(GREY, "<f4"), SIZE, (32,), 1, {339: (3, [3])}), "unknown_range")
    found["float_unit_said"] = Odd(tiff(little(GREY, "<f4"), SIZE, (32,), 1, unit), seen(GREY))
    found["float_big_said"] = Odd(tiff(little(GREY, ">f4"), SIZE, (32,), 1, unit, ">"), seen(GREY))
    found["float_white_is_zero"] = Odd(tiff(little(1 - GREY, "<f4"), SIZE, (32,), 0, unit), seen(GREY))
    found["float_nan"] = Odd(tiff(little(GREY * np.nan, "<f4"), SIZE, (32,), 1, unit), "unreadable_image")
    found["uint32"] = Odd(tiff(little(full(GREY, 2**32 - 1), "<u4"), SIZE, (32,), 1), seen(GREY))
    return found


def _palettes() -> dict[str, Odd]:
    found = {}
    colours = full(RGB.reshape(64, 3)[::4], 65535)
    for bits in (1, 4, 8):
        table = np.zeros((2**bits, 3), np.int64)
        used = min(2**bits, 16)
        table[:used] = colours[:used]
        indices = np.arange(64).reshape(8, 8) % used
        pixels = b"".join(packed(row, bits) for row in indices)
        data = tiff(pixels, SIZE, (bits,), 3, {320: (3, table.T.ravel().tolist())})
        found[f"palette{bits}"] = Odd(data, seen(table[indices] / 65535))
    table = full(RGB, 65535).reshape(64, 3)
    table = np.concatenate([table, np.zeros((192, 3), np.int64)])
    pixels = np.stack([np.arange(64).reshape(8, 8), full(ALPHA, 255)], -1)
    for extra in (0, 2):
        tags = {320: (3, table.T.ravel().tolist()), 338: (3, [extra])}
        found[f"palette_extra{extra}"] = Odd(
            tiff(little(pixels, "u1"), SIZE, (8, 8), 3, tags), seen(RGB, ALPHA if extra else None)
        )
    return found


def _other_models() -> dict[str, Odd]:
    found = {}
    lab = np.stack([full(GREY, 255), full(GREY.T, 60) - 30, np.full((8, 8), 10)], -1)
    image = Image.frombytes("LAB", SIZE, lab.astype(np.int8).tobytes())
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    found["lab"] = Odd(
        tiff(lab.astype(np.int8).tobytes(), SIZE, (8,) * 3, 8), np.asarray(ImageCms.applyTransform(image, to_srgb))
    )
    ycc = bits8(RGB).convert("YCbCr")
    wanted = np.asarray(ycc.convert("RGB"))
    whole, other = {530: (3, [1, 1])}, {529: (11, [0.2126, 0.7152, 0.0722])}
    found["ycbcr"] = Odd(tiff(ycc.tobytes(), SIZE, (8,) * 3, 6, whole), wanted, 0)
    found["ycbcr_saved"] = Odd(saved(ycc, "TIFF"), wanted, 0)
    found["ycbcr_709"] = Odd(tiff(ycc.tobytes(), SIZE, (8,) * 3, 6, whole | other), "unsupported_pixels")
    found["ycbcr_halved"] = Odd(tiff(ycc.tobytes(), SIZE, (8,) * 3, 6), "unsupported_pixels")
    # Of compressed ones libtiff heeds the tags.
    parts = np.asarray(ycc).astype(float) - [0, 128, 128]
    red, blue = parts[..., 0] + 1.5748 * parts[..., 2], parts[..., 0] + 1.8556 * parts[..., 1]
    green = (parts[..., 0] - 0.2126 * red - 0.0722 * blue) / 0.7152
    data = tiff(ycc.tobytes(), SIZE, (8,) * 3, 6, whole | other, compressed=True)
    found["ycbcr_709_zip"] = Odd(data, np.rint(np.stack([red, green, blue], -1)).clip(0, 255), 2)
    orange = bytes([140] * 4 + [90, 170]) * 16
    wanted = np.asarray(Image.new("YCbCr", SIZE, (140, 90, 170)).convert("RGB"))
    found["ycbcr_halved_zip"] = Odd(tiff(orange, SIZE, (8,) * 3, 6, compressed=True), wanted, 2)
    found["lab_zip"] = Odd(tiff(lab.astype(np.int8).tobytes(), SIZE, (8,) * 3, 8, compressed=True), found["lab"].wanted)
    return found


def _planes() -> dict[str, Odd]:
    found = {}
    planes = [little(full(RGB[..., channel], 255), "u1") for channel in range(3)]
    found["planes8"] = Odd(tiff(planes, SIZE, (8,) * 3, 2), seen(RGB), 0)
    for extra in (1, 2):
        shares = np.concatenate([RGB * ALPHA[..., None] if extra == 1 else RGB, ALPHA[..., None]], -1)
        planes = [little(full(shares[..., channel], 255), "u1") for channel in range(4)]
        for mark, squeezed in (("", False), ("_zip", True)):
            data = tiff(planes, SIZE, (8,) * 4, 2, {338: (3, [extra])}, compressed=squeezed)
            found[f"planes8_extra{extra}{mark}"] = Odd(
                data, "unreadable_image" if (extra, mark) == (1, "") else seen(RGB, ALPHA), 2
            )
    planes = [little(full(RGB[..., channel], 65535)) for channel in range(3)]
    found["planes16"] = Odd(tiff(planes, SIZE, (16,) * 3, 2), "unsupported_pixels")
    found["planes16_zip"] = Odd(tiff(planes, SIZE, (16,) * 3, 2, compressed=True), seen(RGB))
    five = np.concatenate([with_alpha(RGB, 255), full(GREY, 255)[..., None]], -1)
    found["rgba_and_more"] = Odd(tiff(little(five, "u1"), SIZE, (8,) * 5, 2, {338: (3, [2, 0])}), seen(RGB, ALPHA))
    return found


def _pages() -> dict[str, Odd]:
    found = {}
    grey = little(full(GREY, 255), "u1")
    found["no_photometric"] = Odd(tiff(grey, SIZE, (8,), None), "unknown_colours")
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    for bits in (1, 4, 8):  # the bits of each byte in the other order
        samples = full(GREY, 2**bits - 1)
        pixels = b"".join(packed(row, bits) for row in samples).translate(turned)
        found[f"grey{bits}_turned_bits"] = Odd(
            tiff(pixels, SIZE, (bits,), 1, {266: (3, [2])}), seen(samples / (2**bits - 1)), 0
        )
    found["float_rgb"] = Odd(tiff(little(RGB, "<f4"), SIZE, (32,) * 3, 2, {339: (3, [3] * 3)}), "unreadable_image")
    found["half_float"] = Odd(tiff(little(GREY, "<f2"), SIZE, (16,), 1, {339: (3, [3])}), "unreadable_image")
    found["double"] = Odd(tiff(little(GREY, "<f8"), SIZE, (64,), 1, {339: (3, [3])}), "unreadable_image")
    found["preview"] = Odd(tiff(grey, SIZE, (8,), 1, {254: (4, [1])}), "unsupported_pixels")
    turned = {274: (3, [6])}
    found["turned16"] = Odd(tiff(little(full(RGB, 65535)), SIZE, (16,) * 3, 2, turned), np.rot90(seen(RGB), -1), 0)
    found["turned_grey16"] = Odd(tiff(little(full(GREY, 65535)), SIZE, (16,), 1, turned), np.rot90(seen(GREY), -1), 0)
    pages = bits8(RGB), bits8(RGB).resize((4, 4))
    found["with_preview"] = Odd(two_pages(*pages, 1), seen(RGB), 0)
    found["two_pages"] = Odd(two_pages(*pages, 0), "animated_image")
    return found


def tiff_colours() -> dict[str, Odd]:
    return _palettes() | _other_models() | _planes() | _pages()
