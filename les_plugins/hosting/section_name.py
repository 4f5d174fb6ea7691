"""The name of our section in a host's settings: what looks like it and is not it would train a short-range model."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any

from les_plugins.errors import ConfigError

#: Our section in every host's own config file.
SECTION = "long_range"
#: Other names of such a section, without case and separators; keys that only begin with ours are near misses too.
_OTHER_NAMES = ("les", "lesplugin", "lesplugins", "lessection", "lesconfig", "latentewald", "rangelong")
#: Likeness (difflib's ratio, without case, accents and separators) from which a key is a misspelling. A slip of one or
#: two letters is above (long_rnage 0.89); short_range (0.63), range (0.71) and full_range (0.67) are below.
_ALIKE = 0.77
#: Keys of the section that no host has: a mapping that holds one is the section under another name, or without one.
_ONLY_OURS = frozenset(
    ("multipoles", "epsilon_infinity", "remove_self_interaction", "net_charge_warning", "element_charges")
)


def is_near_miss(key: object) -> bool:
    """Whether a key of a host's settings is `long_range` misspelt, such as long_rang, longrange, Long-Range or les."""
    if key == SECTION or not isinstance(key, str):
        return False
    plain = re.sub(r"[^a-z]", "", unicodedata.normalize("NFKD", key[:100]).lower())
    wanted = SECTION.replace("_", "")
    if plain in _OTHER_NAMES or plain.startswith(wanted):
        return True
    # the ratio depends on the order of its arguments
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((plain, wanted), (wanted, plain))) >= _ALIKE


def refuse_near_misses(
    settings: Any,
    source: str,
    takes_it: Callable[[tuple[str, ...], Mapping[Any, Any]], bool] = lambda path, section: not path,
    place: str = "at the top level",
    host_keys: Collection[str] = (),
) -> None:
    """Raise for a misspelt `long_range:` section, or one in a place where nobody reads it, at any depth.

    Every adapter calls this on its host's settings before it trains: most hosts ignore keys that they do not know.

    Args:
        settings: what a host's config file holds: mappings and lists, of any depth.
        source: the file, for the message.
        takes_it: whether a mapping, given by the keys that lead to it, is one that the section belongs into; the
            file's own top level by default.
        place: where the section belongs, for the message.
        host_keys: keys of the host, or of the user, that look like ours and are not.

    Raises:
        ConfigError: names key, place and what was probably meant.
    """
    seen: set[int] = set()  # YAML's anchors can make a mapping contain itself

    def look_at(value: Any, path: tuple[str, ...]) -> None:
        if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
            return
        seen.add(id(value))
        if not isinstance(value, Mapping):
            for number, item in enumerate(value):
                look_at(item, (*path, str(number)))
            return
        where = f" under {'.'.join(path)}" if path else " at the top level"
        for key, inner in value.items():
            if key == SECTION and not takes_it(path, value):
                raise ConfigError(f"{source}: {SECTION} stands{where}, where it is not read; write it {place}")
            if key == SECTION or key in host_keys:
                continue  # our own keys are checked by LongRangeConfig
            if is_near_miss(key):
                raise ConfigError(
                    f"{source}: unknown key {key!r:.80} (did you mean {SECTION!r}?){where}; the section of les-plugins "
                    f"is called {SECTION} and stands {place}"
                )
            if key in _ONLY_OURS:
                raise ConfigError(
                    f"{source}: {key} stands{where}, where it is not read; it is a key of the section {SECTION}, which "
                    f"stands {place}"
                )
            look_at(inner, (*path, str(key)))

    look_at(settings, ())
