"""Pictures of every number of bits and kind of alpha."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from tests.support.odd_samples import ALPHA, GREY, RGB, SIZE, Odd, bits8, full, little, saved, seen, with_alpha
from tests.support.picture_writers import bmp, interlaced_png, jp2, packed, pfm, png, tga, with_boxes


def pngs() -> dict[str, Odd]:
    found = {}
    for bits in (1, 2, 4, 8, 16):
        white = 2**bits - 1
        samples = full(GREY, white)
        found[f"grey{bits}"] = Odd(png(samples, bits), seen(samples / white), 0)
        hidden = samples == samples[4, 4]
        key = struct.pack(">H", int(samples[4, 4]))
        found[f"grey{bits}_key"] = Odd(png(samples, bits, 0, [(b"tRNS", key)]), seen(samples / white, ~hidden), 0)
        if bits < 16:
            colours = full(RGB.reshape(64, 3)[:: 64 // min(2**bits, 64)], 255).astype(np.uint8)
            indices = np.arange(64).reshape(8, 8) % len(colours)
            chunks = [(b"PLTE", colours.tobytes())]
            found[f"palette{bits}"] = Odd(png(indices, bits, 3, chunks), colours[indices], 0)
            faint = np.linspace(0, 255, len(colours)).astype(np.uint8)
            chunks.append((b"tRNS", faint.tobytes()))
            wanted = seen(colours[indices] / 255, faint[indices] / 255)
            found[f"palette{bits}_alpha"] = Odd(png(indices, bits, 3, chunks), wanted)
    for bits in (8, 16):
        white = 2**bits - 1
        found[f"rgb{bits}"] = Odd(png(full(RGB, white), bits), seen(RGB), 0)
        found[f"rgba{bits}"] = Odd(png(with_alpha(RGB, white), bits), seen(RGB, ALPHA))
        found[f"grey_alpha{bits}"] = Odd(png(with_alpha(GREY, white), bits), seen(GREY, ALPHA))
        samples = full(RGB, white)
        key = struct.pack(">3H", *samples[3, 3].tolist())
        hidden = (samples == samples[3, 3]).all(-1)
        found[f"rgb{bits}_key"] = Odd(png(samples, bits, 2, [(b"tRNS", key)]), seen(RGB, ~hidden), 0)
        found[f"rgba{bits}_interlaced"] = Odd(interlaced_png(with_alpha(RGB, white), bits, 6), seen(RGB, ALPHA))
        found[f"grey_alpha{bits}_interlaced"] = Odd(interlaced_png(with_alpha(GREY, white), bits, 4), seen(GREY, ALPHA))
    near = full(RGB, 65535)  # not the key, though its first 8 bits are
    near[0, 0] = near[3, 3] // 256 * 256
    key = struct.pack(">3H", *near[3, 3].tolist())
    found["rgb16_near_key"] = Odd(
        png(near, 16, 2, [(b"tRNS", key)]), seen(near / 65535, (near != near[3, 3]).any(-1)), 0
    )
    odd16 = np.array([0x00FF, 0x0100, 0x0080, 0x0081, 0x7FFF, 0xFEFF, 0xFF7E, 0xFF80]).repeat(24).reshape(8, 8, 3)
    found["rgb16_rounding"] = Odd(png(odd16, 16), seen(odd16 / 65535), 0)
    return found


def tgas() -> dict[str, Odd]:
    bgr, bgra = full(RGB, 255)[::-1, :, ::-1], with_alpha(RGB, 255)[::-1][..., [2, 1, 0, 3]]
    pixels, opaque, clear = little(bgra, "u1"), seen(RGB), seen(RGB, ALPHA)
    five = full(RGB, 31)
    bits = (np.arange(64).reshape(8, 8) % 2) << 15
    words = little((bits | five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2])[::-1])
    premultiplied = little(with_alpha(RGB * ALPHA[..., None], 255)[::-1][..., [2, 1, 0, 3]], "u1")
    grey_alpha = little(with_alpha(GREY, 255)[::-1], "u1")
    colours = with_alpha(RGB, 255).reshape(64, 4)[:, [2, 1, 0, 3]]
    palette, indices = little(colours, "u1"), little(np.arange(64).reshape(8, 8)[::-1], "u1")
    found = {
        "24": Odd(tga(little(bgr, "u1"), SIZE, 24, 0), opaque, 0),
        "32_no_alpha": Odd(tga(pixels, SIZE, 32, 0), opaque, 0),
        "32_zeros_no_alpha": Odd(tga(little(bgra * [1, 1, 1, 0], "u1"), SIZE, 32, 0), opaque, 0),
        "32_alpha": Odd(tga(pixels, SIZE, 32, 8), clear),
        **{f"32_attributes{kind}": Odd(tga(pixels, SIZE, 32, 8, attributes=kind), opaque, 0) for kind in (0, 1, 2)},
        "32_attributes3": Odd(tga(pixels, SIZE, 32, 8, attributes=3), clear),
        "32_attributes4": Odd(tga(premultiplied, SIZE, 32, 8, attributes=4), clear),
        "32_odd_alpha": Odd(tga(pixels, SIZE, 32, 4), "unsupported_pixels"),
        "16": Odd(tga(words, SIZE, 16, 0), seen(five / 31)),
        "16_attribute": Odd(tga(words, SIZE, 16, 1), "unknown_colours"),
        "16_attributes0": Odd(tga(words, SIZE, 16, 1, attributes=0), seen(five / 31)),
        "16_attributes3": Odd(tga(words, SIZE, 16, 1, attributes=3), seen(five / 31, bits > 0)),
        "grey": Odd(tga(little(full(GREY, 255)[::-1], "u1"), SIZE, 8, 0, 3), seen(GREY), 0),
        "grey_no_alpha": Odd(tga(grey_alpha, SIZE, 16, 0, 3), seen(GREY), 0),
        "grey_alpha": Odd(tga(grey_alpha, SIZE, 16, 8, 3), seen(GREY, ALPHA)),
        "palette32": Odd(tga(indices, SIZE, 8, 0, 1, (32, palette)), opaque, 0),
        "palette32_alpha": Odd(tga(indices, SIZE, 8, 8, 1, (32, palette)), clear),
        "palette24": Odd(tga(indices, SIZE, 8, 0, 1, (24, little(colours[:, :3], "u1"))), opaque, 0),
    }
    for name, descriptor, rows in (
        ("top", 0x20, bgr[::-1]),
        ("right", 0x10, bgr[:, ::-1]),
        ("both", 0x30, bgr[::-1, ::-1]),
    ):
        found[f"24_{name}"] = Odd(tga(little(rows, "u1"), SIZE, 24, descriptor), opaque, 0)
    five_palette = (five.reshape(64, 3) @ [1 << 10, 1 << 5, 1]) | 0x8000
    found["palette16"] = Odd(tga(indices, SIZE, 8, 0, 1, (16, little(five_palette))), seen(five / 31))
    rle = bytearray(saved(Image.merge("RGBA", (*bits8(RGB).split(), bits8(ALPHA))), "TGA", compression="tga_rle"))
    rle[17] &= 0xF0
    found["rle_no_alpha"] = Odd(bytes(rle), opaque, 0)
    return found


def bmps() -> dict[str, Odd]:
    bgra = with_alpha(RGB, 255)[::-1][..., [2, 1, 0, 3]]
    pixels, opaque, clear = little(bgra, "u1"), seen(RGB), seen(RGB, ALPHA)
    five = full(RGB, 31)[::-1]
    words = five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
    masks = (0xFF0000, 0xFF00, 0xFF)
    spots = np.arange(64).reshape(8, 8) % 3 == 0
    two = bytes(4) + b"\xff\xff\xff\0"
    steps = bytes(value for step in range(16) for value in (step, step, step, 0))
    rows = np.arange(64).reshape(8, 8)[::-1] % 16
    six = np.stack([full(RGB[..., channel], white) for channel, white in enumerate((31, 63, 31))], -1)
    rgb565 = (six[..., 0] << 11 | six[..., 1] << 5 | six[..., 2])[::-1]
    runs = b"\0\0\xff\0\xff\0\0\0" + bytes(4 * 254)
    banded = np.where(np.arange(8)[None, :, None] < 3, (255, 0, 0), (0, 0, 255)) + np.zeros((8, 1, 1), int)
    return {
        "32": Odd(bmp(pixels, SIZE, 32), opaque, 0),
        "32_os2": Odd(bmp(little(bgra[..., :3], "u1"), SIZE, 24, header=12), opaque, 0),
        "32_masks": Odd(bmp(pixels, SIZE, 32, masks=masks), opaque, 0),
        "32_v4": Odd(bmp(pixels, SIZE, 32, 108, (*masks, 0)), opaque, 0),
        "32_v4_alpha": Odd(bmp(pixels, SIZE, 32, 108, (*masks, 0xFF000000)), clear),
        "32_v4_unused_masks": Odd(bmp(pixels, SIZE, 32, 108, fields={52: b"\0\0\0\xff"}), opaque, 0),
        "32_v5_alpha": Odd(bmp(pixels, SIZE, 32, 124, (*masks, 0xFF000000)), clear),
        "24_top": Odd(bmp(little(bgra[::-1, :, :3], "u1"), (8, -8), 24), opaque, 0),
        "16_565": Odd(bmp(little(rgb565), SIZE, 16, masks=(0xF800, 0x7E0, 0x1F)), seen(six / [31, 63, 31])),
        "8_run_lengths": Odd(
            bmp(b"\x03\0\x05\1\0\0" * 8 + b"\0\1", SIZE, 8, palette=runs, fields={16: b"\1\0\0\0"}), banded, 0
        ),
        "32_dib.dib": Odd(bmp(pixels, SIZE, 32, dib=True), opaque, 0),
        "16": Odd(bmp(little(words), SIZE, 16), seen(full(RGB, 31) / 31)),
        "16_alpha": Odd(bmp(little(words), SIZE, 16, 108, (0x7C00, 0x3E0, 0x1F, 0x8000)), "unsupported_pixels"),
        "32_ten_bits": Odd(bmp(pixels, SIZE, 32, masks=(0x3FF00000, 0xFFC00, 0x3FF)), "unreadable_image"),
        "no_masks": Odd(bmp(pixels, SIZE, 32, 108, (0, 0, 0, 0)), "unsupported_pixels"),
        "two_greys_of_8": Odd(bmp(little(spots[::-1], "u1"), SIZE, 8, palette=two, colours=2), seen(spots * 1.0), 0),
        "two_greys_of_4": Odd(
            bmp(b"".join(packed(row * 1, 4) for row in spots[::-1]), SIZE, 4, palette=two, colours=2),
            seen(spots * 1.0),
            0,
        ),
        "two_greys_of_1": Odd(
            bmp(b"".join(packed(row * 1, 1) + bytes(3) for row in spots[::-1]), SIZE, 1, palette=two),
            seen(spots * 1.0),
            0,
        ),
        "dark_greys_of_4": Odd(
            bmp(b"".join(packed(row, 4) for row in rows), SIZE, 4, palette=steps), seen(rows[::-1] / 255), 0
        ),
    }


def ppms() -> dict[str, Odd]:
    found = {}
    for white in (1, 100, 255, 1023, 4095, 65535):
        kind = ">u2" if white > 255 else "u1"
        for letters, shares in (("25", GREY), ("36", RGB)):
            samples = full(shares, white)
            text = " ".join(map(str, samples.ravel())).encode()
            head = f"P{letters[0]}\n8 8\n# made\n{white}\n".encode()
            found[f"p{letters[0]}_{white}"] = Odd(head + text, seen(samples / white))
            head = f"P{letters[1]} 8 8 {white}\n".encode()
            found[f"p{letters[1]}_{white}"] = Odd(head + little(samples, kind), seen(samples / white))
    spots = np.arange(64).reshape(8, 8) % 3 == 0
    found["p1"] = Odd(b"P1\n8 8\n" + "".join(str(1 - v) for v in (spots * 1).ravel()).encode(), seen(spots * 1.0), 0)
    found["p4"] = Odd(b"P4\n8 8\n" + b"".join(packed(1 - row * 1, 1) for row in spots), seen(spots * 1.0), 0)
    for name, scale in (("little", -1.0), ("big", 1.0)):
        found[f"float_{name}.pfm"] = Odd(pfm(GREY, scale), seen(GREY))
    found["float_scaled.pfm"] = Odd(pfm(GREY * 4, -4.0), "unknown_range")
    found["float_bright.pfm"] = Odd(pfm(GREY * 9, -1.0), "unknown_range")
    found["float_negative.pfm"] = Odd(pfm(GREY - 0.5, -1.0), "unknown_range")
    found["float_nan.pfm"] = Odd(pfm(GREY * np.nan, -1.0), "unreadable_image")
    found["colour.pfm"] = Odd(b"PF\n8 8\n-1.0\n" + little(RGB, "<f4"), "unsupported_format")
    found["own"] = Odd(b"PyRGBA\n8 8\n255\n" + little(with_alpha(RGB, 255), "u1"), "unsupported_format")
    head = b"P7\nWIDTH 8\nHEIGHT 8\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"
    found["any.pam"] = Odd(head + little(full(RGB, 255), "u1"), "unsupported_format")
    return found


def jpeg2000s() -> dict[str, Odd]:
    found = {"rgb": Odd(jp2(bits8(RGB)), seen(RGB), 0), "grey": Odd(jp2(bits8(GREY)), seen(GREY), 0)}
    found["grey16"] = Odd(jp2(Image.fromarray(full(GREY, 65535).astype(np.uint16))), seen(GREY), 0)
    for bits in (1, 4, 7, 9, 12):
        white = 2**bits - 1
        samples = full(GREY, white)
        middle = 128 if bits < 8 else 32768
        given = (samples - 2 ** (bits - 1) + middle).astype(np.uint8 if bits < 8 else np.uint16)
        found[f"grey{bits}"] = Odd(jp2(Image.fromarray(given), bits), seen(samples / white))
    for bits in (4, 9, 10, 12):
        samples = full(RGB, 15) if bits < 8 else full(RGB, 255) - 128 + 2 ** (bits - 1)
        given = (samples - 2 ** (bits - 1) + 128).astype(np.uint8)
        found[f"rgb{bits}"] = Odd(jp2(Image.fromarray(given), bits), seen(samples / (2**bits - 1)))
    # The differences to green that a codestream keeps reach the ends of 9 bits.
    colours = np.stack([GREY > 0.5, GREY.T > 0.5, GREY > 1], -1)
    data = bytearray(jp2(bits8(colours * 1.0), 9, mct=1))
    data[data.index(b"\xff\x52") + 8] = 0
    luma = (colours @ [1, 2, 1] * 255 // 4 + 128)[..., None]
    given = np.concatenate([luma, (colours[..., 2:] * 1 - colours[..., 1:2]) * 255 + 256,
                            (colours[..., :1] * 1 - colours[..., 1:2]) * 255 + 256], -1)  # fmt: skip
    found["rgb9_ends"] = Odd(bytes(data), seen(given / 511))
    found["signed"] = Odd(jp2(bits8(GREY), 8, signed=True), "unknown_range")
    rgba = Image.merge("RGBA", (*bits8(RGB).split(), bits8(ALPHA)))
    data = jp2(rgba)
    found["rgba"] = Odd(data, seen(RGB, ALPHA))
    found["grey_alpha"] = Odd(jp2(Image.merge("LA", (bits8(GREY), bits8(ALPHA)))), seen(GREY, ALPHA))
    cdef = data[data.index(b"cdef") - 4 :][:34]
    found["rgba_unsaid"] = Odd(with_boxes(data, cdef, b""), "unknown_colours")
    found["rgba_other"] = Odd(with_boxes(data, cdef[-6:], struct.pack(">HHH", 3, 65535, 65535)), seen(RGB), 0)
    dark = Image.merge("RGBA", (*bits8(RGB * ALPHA[..., None]).split(), bits8(ALPHA)))
    found["rgba_premultiplied"] = Odd(
        with_boxes(jp2(dark), cdef[-6:], struct.pack(">HHH", 3, 2, 0)), seen(RGB, ALPHA), 2
    )
    first = cdef.replace(struct.pack(">HHH", 0, 0, 1), struct.pack(">HHH", 0, 1, 0))
    found["rgba_first"] = Odd(with_boxes(data, cdef, first), "unsupported_pixels")
    found["rgba_bare.j2k"] = Odd(jp2(rgba, no_jp2=True), "unknown_colours")
    found["grey_bare4.j2k"] = Odd(
        jp2(Image.fromarray((full(GREY, 15) + 120).astype(np.uint8)), 4, no_jp2=True), seen(full(GREY, 15) / 15)
    )
    colr = b"colr\1\0\0\0\0\0"
    found["other_colours"] = Odd(with_boxes(jp2(bits8(RGB)), colr + b"\x10", colr + b"\x14"), "unsupported_pixels")
    table = full(RGB, 255).reshape(64, 3).astype(np.uint8)
    table[1::2] = table[::2]  # every colour twice
    pclr = struct.pack(">I4sHB3B", 14 + 192, b"pclr", 64, 3, 7, 7, 7) + table.tobytes()
    cmap = struct.pack(">I4s", 20, b"cmap") + b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3))
    data = jp2(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    data = with_boxes(
        data, struct.pack(">I", 15) + colr + b"\x11", struct.pack(">I", 15) + colr + b"\x10" + pclr + cmap
    )
    found["palette"] = Odd(data, table.reshape(8, 8, 3), 0)
    return found


def others() -> dict[str, Odd]:
    found = {}
    rgba = Image.merge("RGBA", (*bits8(RGB).split(), bits8(ALPHA)))
    found["alpha.webp"] = Odd(saved(rgba, "WEBP", lossless=True, exact=True), seen(RGB, ALPHA))
    found["alpha.avif"] = Odd(saved(rgba, "AVIF", quality=100, subsampling="4:4:4"), seen(RGB, ALPHA), 6)
    found["grey.jpg"] = Odd(saved(Image.new("L", SIZE, 77), "JPEG", quality=100), np.full((8, 8, 3), 77))
    inks = saved(Image.new("CMYK", SIZE, (0, 128, 255, 0)), "JPEG", quality=100)
    found["inks.jpg"] = Odd(inks, np.full((8, 8, 3), (255, 127, 0)), 3)
    # Ink 55 is kept as 200; as luminance, with chroma 127, this is a grey whose ink is 200.
    start = inks.index(b"\xff\xee")
    luminance = bytearray(saved(Image.new("CMYK", SIZE, (55, 127, 127, 0)), "JPEG", quality=100))
    luminance[luminance.index(b"Adobe") + 11] = 2
    found["ycck.jpg"] = Odd(bytes(luminance), np.full((8, 8, 3), 55), 3)
    (length,) = struct.unpack(">H", inks[start + 2 : start + 4])
    found["inks_unsaid.jpg"] = Odd(inks[:start] + inks[start + 2 + length :], "unknown_colours")
    photograph = io.BytesIO()
    bits8(RGB).save(
        photograph, "MPO", save_all=True, append_images=[bits8(RGB).resize((4, 4))], quality=100, subsampling=0
    )
    found["preview.mpo"] = Odd(photograph.getvalue(), seen(RGB), 8)
    # One frame of 4 x 4 pixels on a screen of 8 x 8, whose colour is the second of the palette.
    frame = Image.new("P", (4, 4), 0)
    frame.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0, 9, 9, 9])
    frame.putpixel((3, 3), 3)
    gif = bytearray(saved(frame, "GIF", optimize=False))
    gif[6:10], gif[11] = struct.pack("<HH", *SIZE), 1
    wanted = np.full((8, 8, 3), (0, 0, 255))
    wanted[:4, :4] = (255, 0, 0)
    wanted[3, 3] = 9
    found["part.gif"] = Odd(bytes(gif), wanted, 0)
    grey = bytearray(saved(Image.new("L", (4, 4), 9), "GIF", optimize=False))
    grey[6:10], grey[11] = struct.pack("<HH", *SIZE), 77
    wanted = np.full((8, 8, 3), 77)
    wanted[:4, :4] = 9
    found["part_grey.gif"] = Odd(bytes(grey), wanted, 0)
    return found
