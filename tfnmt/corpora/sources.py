"""The packages whose message catalogues make the software corpus, pinned by version and hash.

Wheels are only read as zip archives; nothing of them is installed or run. To move a pin, change the version, the
file name, the size and the hash together; `pip hash FILE` prints the hash.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    """One wheel."""

    name: str
    version: str
    filename: str
    size_bytes: int
    sha256: str
    form: str = "gettext"  # how its catalogues are written: gettext or json
    accelerator: str = ""  # the character before a menu's underlined letter


SOFTWARE = (
    Source(
        "homeassistant",
        "2026.2.3",
        "homeassistant-2026.2.3-py3-none-any.whl",
        51_240_053,
        "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
        form="json",
    ),
    Source(
        "gramps",
        "6.0.8",
        "gramps-6.0.8-py3-none-any.whl",
        17_077_316,
        "56f03bcb643320eb9f9892d4c3f8bbe7c4c4d2e4c71e56f598584af24561ec1c",
        accelerator="_",
    ),
    Source(
        "pretix",
        "2026.8.0",
        "pretix-2026.8.0-py3-none-any.whl",
        39_528_456,
        "a78932e698778d873530d67f25a57c28d1c09b1bfb1a22ec817c00d90397db85",
    ),
    Source(
        "weblate",
        "2026.10.1",
        "weblate-2026.10.1-py3-none-any.whl",
        10_949_589,
        "27a779ceb05fec3665081df0d3f46f4b6ac0e3f499160a1c3cb145e8e35853d2",
    ),
    Source(
        "mayan-edms",
        "4.12.2",
        "mayan_edms-4.12.2-py2.py3-none-any.whl",
        9_618_211,
        "5eb0deccb29199a7add33a757161f3f461aa3b00451de13027049258dd412f67",
    ),
    Source(
        "horizon",
        "27.0.0",
        "horizon-27.0.0-py3-none-any.whl",
        5_297_721,
        "8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
    ),
    Source(
        "spyder",
        "6.1.8",
        "spyder-6.1.8-py3-none-any.whl",
        14_481_595,
        "4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90",
        accelerator="&",
    ),
    Source(
        "pretalx",
        "2026.2.1",
        "pretalx-2026.2.1-py3-none-any.whl",
        6_789_970,
        "41328c518838cf464582c136b3229e3872b82d91f78d8e396970f84baf29e9ae",
    ),
    Source(
        "wagtail",
        "8.0.1",
        "wagtail-8.0.1-py3-none-any.whl",
        9_841_588,
        "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
    ),
    Source(
        "django-oscar",
        "4.2.1",
        "django_oscar-4.2.1-py3-none-any.whl",
        8_984_805,
        "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c",
    ),
    Source(
        "nicotine-plus",
        "3.3.11",
        "nicotine_plus-3.3.11-py3-none-any.whl",
        2_751_698,
        "57a5fdf5f4d3ca993bfd3e086348c95536557cfa68569c0fc03b21f5c8d4307a",
        accelerator="_",
    ),
    Source(
        "ckan",
        "2.12.0",
        "ckan-2.12.0-py3-none-any.whl",
        7_785_966,
        "3b41cb4860286813fbcd18c57341e96edba266e2e492aeea92c4e03ce9e2934e",
    ),
    Source(
        "django",
        "6.1.3",
        "django-6.1.3-py3-none-any.whl",
        8_424_610,
        "a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290",
    ),
    Source(
        "gaphor",
        "3.3.2",
        "gaphor-3.3.2-py3-none-any.whl",
        1_070_767,
        "6a8a84bbce429677af664c9857d9433ea66e782015d7a53f679f7e7c4bf208d0",
        accelerator="_",
    ),
    Source(
        "django-cms",
        "5.1.3",
        "django_cms-5.1.3-py3-none-any.whl",
        3_562_685,
        "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e",
    ),
    Source(
        "thonny",
        "5.0.1",
        "thonny-5.0.1-py3-none-any.whl",
        2_725_257,
        "94eb9fc3d9f45acffcda51c17e75f56bb4b14427fee0467e14fb4f6210c33041",
    ),
)
