"""The classes of NYUDv2 and SUN RGB-D, and the official split of NYUDv2: facts, each with its source.

The labels of NYUDv2 name 894 kinds of things. Gupta et al. (CVPR 2013) sort them into 40 classes; 37 of these are the
classes of SUN RGB-D (Song et al., CVPR 2015), without the three collective ones; Couprie et al. (ICLR 2013) have 13.
"""

import numpy as np

KINDS = 894
"""Names in nyu_depth_v2_labeled.mat."""

NYU40 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("otherstructure", "otherfurniture", "otherprop"),
)
SUN37 = NYU40[:37]
NYU13 = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "television"),
    *("wall", "window"),
)

# The one kind of each of the first 37 classes, in their order.
_NAMESAKES = (
    *(21, 11, 3, 157, 5, 83, 19, 28, 59, 88, 64, 7, 80, 36, 42, 89, 169, 119, 122, 143, 141, 4, 85, 17, 172, 15, 135),
    *(123, 26, 45, 331, 158, 124, 24, 144, 136, 55),
)
_OTHER_STRUCTURE = (
    "8 25 33 38 51 53 57-58 62 65 79 94 104 112 134 153 215-216 223 225 238 241-242 256 295 301 339 342 354 363 372 "
    "380 392 408 412 453 456 463 477 497 541 550 553 567 573 582 591 609 612 615 642 645 657-659 663 667-668 686 700 "
    "702 777-778 782 850 861 868 874"
)
_OTHER_FURNITURE = (
    "12 43 48 50 87 106 111 161 163 174 183 204 214 219 221 224 236 262 278 291 298 313 343-344 356 359 373 393 401 "
    "414 418-419 430 443-444 447-448 457-458 460 462 475 479 485-486 493-494 498-499 509-510 515 521 524 540 549 551 "
    "554 556 558 576 580 608 625 703 734 770 772 797 800 803-804 813-815 820 829 835 858 863 882 892"
)
# Number of the NYU13 class, from 1, for each NYU40 class.
_TO_13 = (
    *(12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5, 7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7),
    *(7, 7, 7, 6, 7),
)

IMAGES = 1449
"""Labelled images of NYUDv2; 795 of them are for training, 654 for test."""

_TRAINING_IMAGES = (
    "3-8 10-13 19-20 22-27 44-45 48-55 58 64-75 80-83 92-116 120-124 130 135-136 138-152 156-166 170 177-179 203-206 "
    "213-219 223-249 251-263 265-270 274-278 286-295 303-309 313-314 318-324 336-350 353-354 365-383 391-394 398-410 "
    "415-429 436-440 449-461 467-468 478-507 514 527-530 534-536 540-548 552-554 572-578 584-590 595-602 608-611 "
    "614-616 622-632 639-643 646-649 652-655 659-662 665-667 674-675 682-685 691-692 695-696 700-705 714-716 719-723 "
    "729-730 735-742 745-758 788-799 805-809 815-820 824-832 847-849 853-856 863-868 872-905 909-916 920-925 929-931 "
    "936-944 948-958 963-964 968-969 978-990 996-1000 1005-1009 1013-1020 1024-1031 1035-1037 1040-1047 1050-1051 "
    "1054-1056 1059-1074 1085-1087 1097 1105 1110-1116 1120-1122 1132-1134 1137-1143 1159-1161 1168-1169 1172-1173 "
    "1177-1178 1185-1191 1197-1200 1213-1215 1221-1225 1231-1232 1236-1246 1251-1253 1266-1274 1281-1284 1296 "
    "1300-1301 1309-1313 1316-1328 1333-1334 1341-1346 1350-1352 1357-1363 1366-1367 1370-1383 1392-1393 1402-1406 "
    "1415-1420 1425-1429 1434-1440"
)


def names_of(classes: int) -> tuple[str, ...]:
    """The names of the 40, 37 or 13 classes."""
    return {40: NYU40, 37: SUN37, 13: NYU13}[classes]


def table_of(classes: int, ignore: int) -> np.ndarray:
    """The class of every kind.

    Args:
        classes: 40, 37 or 13.
        ignore: What stands for unlabelled pixels, kind 0, and for kinds of no class.

    Returns:
        uint8 (895,), the number of the class, from 0, by the number of the kind.
    """
    forty = np.full(KINDS + 1, 40)
    forty[0] = 0
    forty[list(_NAMESAKES)] = np.arange(1, 38)
    forty[numbers(_OTHER_STRUCTURE)] = 38
    forty[numbers(_OTHER_FURNITURE)] = 39
    if classes == 13:
        forty = np.array((0, *_TO_13))[forty]
    labelled = (forty > 0) & (forty <= classes)
    return np.where(labelled, forty - 1, ignore).astype(np.uint8)


def namesakes() -> dict[str, int]:
    """The number of the kind that each of the first 37 classes is named after, by its name in the release."""
    return {name.replace("refrigerator", "refridgerator"): n for name, n in zip(SUN37, _NAMESAKES, strict=True)}


def official_split() -> dict[str, list[int]]:
    """The numbers, from 1, of the images for training and for test (Silberman et al., ECCV 2012; splits.mat)."""
    train = numbers(_TRAINING_IMAGES)
    return {"train": train, "test": sorted(set(range(1, IMAGES + 1)) - set(train))}


def numbers(ranges: str) -> list[int]:
    """The numbers in a text like "1 3-5"."""
    bounds = [(part.split("-")[0], part.split("-")[-1]) for part in ranges.split()]
    return [number for first, last in bounds for number in range(int(first), int(last) + 1)]
