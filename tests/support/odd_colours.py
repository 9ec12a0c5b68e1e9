"""Pictures in other colours than sRGB, by profile or otherwise."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.support.odd_samples import (
    ADOBE,
    ALPHA,
    GREY,
    P3,
    PROPHOTO,
    RGB,
    SIZE,
    SRGB_COLUMNS,
    Odd,
    bits8,
    encoded,
    from_space,
    full,
    linear,
    little,
    saved,
    seen,
    with_alpha,
)
from tests.support.picture_writers import bmp, grey_icc, jp2, matrix_icc, png, table_icc, tiff, with_boxes


def pngs() -> dict[str, Odd]:
    samples = full(RGB, 255)
    png_with = lambda *chunks, what=samples, bits=8: png(what, bits, chunks=chunks)  # noqa: E731
    d65, p3 = (31270, 32900), (68000, 32000, 26500, 69000, 15000, 6000)
    srgb = (64000, 33000, 30000, 60000, 15000, 6000)
    chrm = {name: (b"cHRM", struct.pack(">8I", *d65, *values)) for name, values in (("p3", p3), ("srgb", srgb))}
    gama = {value: (b"gAMA", struct.pack(">I", value)) for value in (45455, 55556, 100000)}
    p3_srgb = encoded(linear(RGB) @ (np.linalg.inv(np.array(SRGB_COLUMNS).T) @ np.array(P3).T).T)
    broken = (b"iCCP", b"x\0\0" + zlib.compress(b"no profile at all"))
    adobe = (b"iCCP", b"x\0\0" + zlib.compress(matrix_icc(ADOBE, 2.2)))
    grey = (b"iCCP", b"x\0\0" + zlib.compress(grey_icc(1.0)))
    return {
        "gama_usual": Odd(png_with(gama[45455], chrm["srgb"]), seen(RGB), 0),
        "gama_mac": Odd(png_with(gama[55556]), seen(encoded(RGB ** (1 / 0.55556)))),
        "gama_linear": Odd(png_with(gama[100000]), seen(encoded(RGB))),
        "gama_linear16": Odd(png_with(gama[100000], what=full(RGB, 65535), bits=16), seen(encoded(RGB))),
        "gama_linear_grey16": Odd(png_with(gama[100000], what=full(GREY, 65535), bits=16), seen(encoded(GREY))),
        "gama_linear_alpha": Odd(png_with(gama[100000], what=with_alpha(RGB, 255)), seen(encoded(RGB), ALPHA), 2),
        "chrm_p3": Odd(png_with(gama[45455], chrm["p3"]), seen(p3_srgb), 3),
        "srgb_over_gama": Odd(png_with((b"sRGB", b"\0"), gama[100000]), seen(RGB), 0),
        "gama_as_text": Odd(png_with((b"tEXt", b"gamma\0of the sea"), (b"tEXt", b"chromaticity\0none")), seen(RGB), 0),
        "cicp_p3": Odd(png_with((b"cICP", bytes([12, 13, 0, 1]))), seen(p3_srgb), 3),
        "cicp_linear16": Odd(
            png_with((b"cICP", bytes([1, 8, 0, 1])), what=full(RGB, 65535), bits=16), seen(encoded(RGB))
        ),
        "cicp_srgb_over_icc": Odd(png_with((b"cICP", bytes([1, 13, 0, 1])), adobe), seen(RGB), 0),
        "cicp_pq": Odd(png_with((b"cICP", bytes([9, 16, 0, 1])), what=full(RGB, 65535), bits=16), "unsupported_pixels"),
        "cicp_hlg": Odd(png_with((b"cICP", bytes([9, 18, 0, 1]))), "unsupported_pixels"),
        "cicp_narrow": Odd(png_with((b"cICP", bytes([1, 13, 0, 0]))), "unsupported_pixels"),
        "icc_broken": Odd(png_with(broken), seen(RGB), 0),
        "icc_broken_gama": Odd(png_with(broken, gama[100000]), seen(encoded(RGB))),
        "icc_of_greys": Odd(png_with(grey), seen(RGB), 0),
        "icc_over_gama": Odd(png_with(adobe, gama[100000]), seen(from_space(RGB, ADOBE, 563 / 256))),
        "grey_icc": Odd(png_with(grey, what=full(GREY, 255)), seen(encoded(GREY))),
        "grey_icc16": Odd(png_with(grey, what=full(GREY, 65535), bits=16), seen(encoded(GREY))),
        "grey_rgb_icc16": Odd(
            png_with(adobe, what=full(GREY, 65535), bits=16),
            seen(from_space(np.stack([GREY] * 3, -1), ADOBE, 563 / 256)),
        ),
        "grey_alpha_icc": Odd(png_with(grey, what=with_alpha(GREY, 255)), seen(encoded(GREY), ALPHA), 2),
        "palette_icc": Odd(
            png(np.arange(64).reshape(8, 8), 8, 3, [adobe, (b"PLTE", bytes(samples.astype(np.uint8)))]),
            seen(from_space(RGB, ADOBE, 563 / 256)),
        ),
    }


def profiles() -> dict[str, Odd]:
    """The same profile in every format that carries one."""
    found = {}
    for name, columns, gamma in (("adobe", ADOBE, 563 / 256), ("p3", P3, 2.2), ("prophoto", PROPHOTO, 1.8)):
        profile, gamma = matrix_icc(columns, gamma), round(gamma * 256) / 256
        wanted = seen(from_space(RGB, columns, gamma))  # of 8 bits LittleCMS makes up to 3 levels more near black
        for kind in ("PNG", "TIFF", "WEBP"):
            options = {"lossless": True} if kind == "WEBP" else {}
            found[f"{name}.{kind.lower()}"] = Odd(saved(bits8(RGB), kind, icc_profile=profile, **options), wanted, 3)
        found[f"{name}_16.png"] = Odd(
            png(full(RGB, 65535), 16, chunks=[(b"iCCP", b"x\0\0" + zlib.compress(profile))]), wanted
        )
        tags = {34675: (7, profile)}
        found[f"{name}_16.tif"] = Odd(tiff(little(full(RGB, 65535)), SIZE, (16,) * 3, 2, tags), wanted)
    plain = Image.new("RGB", SIZE, (200, 100, 50))
    colour = np.full((8, 8, 3), (200, 100, 50)) / 255
    profile = matrix_icc(ADOBE, 2.2)
    for kind, options in (("JPEG", {"quality": 100}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})):
        data = saved(plain, kind, icc_profile=profile, **options)
        found[f"adobe.{kind.lower()}"] = Odd(data, seen(from_space(colour, ADOBE, 563 / 256)), 4)
    colr = b"colr\1\0\0\0\0\0\x10"
    boxed = struct.pack(">I", len(profile) + 11) + b"colr\2\0\0" + profile
    data = with_boxes(jp2(bits8(RGB)), struct.pack(">I", 15) + colr, boxed)
    found["adobe.jp2"] = Odd(data, seen(from_space(RGB, ADOBE, 563 / 256)), 2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found["srgb.png"] = Odd(saved(bits8(RGB), "PNG", icc_profile=srgb), seen(RGB), 0)
    found["srgb_grey.png"] = Odd(saved(bits8(GREY), "PNG", icc_profile=srgb), seen(GREY), 0)
    # As in most photographs: version 2, with the curve as a table.
    table = np.rint(linear(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
    old = matrix_icc(SRGB_COLUMNS, 2.2, b"curv" + bytes(4) + struct.pack(">I", 1024) + table)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        found[f"srgb_table.{kind.lower()}"] = Odd(saved(bits8(RGB), kind, icc_profile=old, **options), seen(RGB), 0)
    found["cut.tif"] = Odd(saved(bits8(RGB), "TIFF", icc_profile=profile[:200]), seen(RGB), 0)
    # Of inks: black with black, else white without any, and a dark red.
    corners = np.array([[255, 128, 128], [0, 128, 128]] + [[80, 160, 150], [0, 128, 128]] * 7)
    inks = Image.new("CMYK", SIZE, (0, 255, 0, 0))
    lab = Image.new("LAB", (1, 1), (80, 160, 150))
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    dark = np.full((8, 8, 3), np.asarray(ImageCms.applyTransform(lab, to_srgb))[0, 0])
    table = table_icc(b"CMYK", corners)
    found["inks.tif"] = Odd(saved(inks, "TIFF", icc_profile=table), dark, 2)
    found["inks.jpg"] = Odd(saved(inks, "JPEG", icc_profile=table, quality=100), dark, 4)
    found["inks_rgb_profile.tif"] = Odd(saved(inks, "TIFF", icc_profile=profile), np.full((8, 8, 3), (255, 0, 255)), 0)
    # A table of RGB, whatever its colours: those that LittleCMS makes of 8 bits.
    corners = np.array([(light, a, b) for light in (20, 240) for a in (90, 170) for b in (100, 160)])
    cube = table_icc(b"RGB ", corners)
    made = ImageCms.profileToProfile(
        bits8(RGB), ImageCms.ImageCmsProfile(io.BytesIO(cube)), ImageCms.createProfile("sRGB")
    )
    found["table.png"] = Odd(saved(bits8(RGB), "PNG", icc_profile=cube), np.asarray(made), 0)
    chunks = [(b"iCCP", b"x\0\0" + zlib.compress(cube))]
    found["table_16.png"] = Odd(png(full(RGB, 65535), 16, chunks=chunks), np.asarray(made), 0)
    samples = np.zeros((8, 8, 4)) + (0, 65535, 0, 0)
    tags = {34675: (7, table)}
    found["inks16.tif"] = Odd(tiff(little(samples), SIZE, (16,) * 4, 5, tags), dark, 2)
    return found


def bmps() -> dict[str, Odd]:
    pixels = little(full(RGB, 255)[::-1, :, ::-1], "u1")
    profile = matrix_icc(ADOBE, 2.2)
    named = {name: {56: name[::-1]} for name in (b"sRGB", b"LINK", b"MBED")}
    embedded = named[b"MBED"] | {112: struct.pack("<II", 124 + len(pixels), len(profile))}
    # The XYZ of three primaries that make white D65, those of P3, and the gamma 2.2.
    xyz = np.array([(0.48657, 0.22897, 0.0), (0.26567, 0.69174, 0.04511), (0.19822, 0.07929, 1.04394)])
    ends = {60: struct.pack("<9i", *np.rint(xyz.ravel() * 2**30).astype(int)), 96: struct.pack("<3I", *[144179] * 3)}
    return {
        "v4_srgb": Odd(bmp(pixels, SIZE, 24, 108, fields=named[b"sRGB"]), seen(RGB), 0),
        "v4_zeros": Odd(bmp(pixels, SIZE, 24, 108), seen(RGB), 0),
        "v4_p3": Odd(bmp(pixels, SIZE, 24, 108, fields=ends), seen(from_space(RGB, P3, 2.2))),
        "v5_linked": Odd(bmp(pixels, SIZE, 24, 124, fields=named[b"LINK"]), "unknown_colours"),
        "v5_embedded": Odd(
            bmp(pixels, SIZE, 24, 124, fields=embedded, behind=profile), seen(from_space(RGB, ADOBE, 563 / 256))
        ),
    }


def coded() -> dict[str, Odd]:
    """Colours that are said by numbers: AVIF, TIFF and EXIF."""
    found = {}
    plain, colour = Image.new("RGB", SIZE, (200, 100, 50)), np.full((8, 8, 3), (200, 100, 50)) / 255
    avif = saved(plain, "AVIF", quality=100, subsampling="4:4:4")
    place = avif.index(b"nclx") + 4
    p3 = encoded(linear(colour) @ (np.linalg.inv(np.array(SRGB_COLUMNS).T) @ np.array(P3).T).T)
    for name, codes, wanted in (
        ("srgb", (1, 13), seen(colour)), ("video", (1, 1), seen(colour)), ("p3", (12, 13), seen(p3)),
        ("linear", (1, 8), seen(encoded(colour))), ("pq", (9, 16), "unsupported_pixels"),
        ("hlg", (9, 18), "unsupported_pixels"), ("unknown", (99, 13), "unsupported_pixels"),
    ):  # fmt: skip
        data = avif[:place] + struct.pack(">HH", *codes) + avif[place + 4 :]
        found[f"coded_{name}.avif"] = Odd(data, wanted, 4)
    tags = {319: (11, [0.68, 0.32, 0.265, 0.69, 0.15, 0.06]), 318: (11, [0.3127, 0.329])}
    wide = encoded(linear(RGB) @ (np.linalg.inv(np.array(SRGB_COLUMNS).T) @ np.array(P3).T).T)
    found["primaries.tif"] = Odd(tiff(little(full(RGB, 255), "u1"), SIZE, (8,) * 3, 2, tags), seen(wide), 3)
    for name, tables in (("one", 1), ("three", 3)):
        for bits, white in ((8, 255), (16, 65535)):
            squares = np.rint(np.linspace(0, 1, white + 1) ** 2 * 65535).astype(int).tolist()
            data = tiff(little(full(RGB, white), f"<u{bits // 8}"), SIZE, (bits,) * 3, 2, {301: (3, squares * tables)})
            found[f"transfer_{name}_{bits}.tif"] = Odd(data, seen(encoded(RGB**2)))
            data = tiff(little(full(GREY, white), f"<u{bits // 8}"), SIZE, (bits,), 1, {301: (3, squares * tables)})
            found[f"transfer_{name}_grey{bits}.tif"] = Odd(data, seen(encoded(GREY**2)))
    pixels, ramp = little(full(RGB, 255), "u1"), list(range(0, 65536, 257))
    found["transfers.tif"] = Odd(
        tiff(pixels, SIZE, (8,) * 3, 2, {301: (3, [*ramp, *ramp, *ramp[::-1]])}), "unsupported_pixels"
    )
    found["transfer_cut.tif"] = Odd(tiff(pixels, SIZE, (8,) * 3, 2, {301: (3, ramp[:99])}), "unsupported_pixels")
    grey = tiff(little(full(GREY, 255), "u1"), SIZE, (8,), 0, {301: (3, ramp)})
    found["transfer_white_is_zero.tif"] = Odd(grey, "unsupported_pixels")
    for space, index, wanted in (
        (65535, "R03", seen(from_space(colour, ADOBE, 563 / 256))), (1, "R98", seen(colour)),
        (65535, None, seen(colour)),
    ):  # fmt: skip
        exif = Image.Exif()
        exif[0x8769] = {0xA001: space, **({} if index is None else {0xA005: {1: index}})}
        found[f"exif_{index}.jpg"] = Odd(saved(plain, "JPEG", quality=100, exif=exif), wanted, 4)
    return found
