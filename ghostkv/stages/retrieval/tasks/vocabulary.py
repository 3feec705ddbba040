"""Words that needles are made of: plain English adjectives and nouns, every pair of which is one key."""

ADJECTIVES = (
    "ancient", "bitter", "brave", "bright", "broken", "calm", "careful", "cheerful", "clever", "cold", "curious",
    "damp", "dark", "deep", "distant", "dusty", "eager", "early", "empty", "faint", "famous", "fierce", "foggy",
    "gentle", "golden", "graceful", "heavy", "hidden", "hollow", "honest", "humble", "icy", "jolly", "late",
    "lively", "lonely", "loud", "lucky", "mellow", "mighty", "narrow", "noisy", "odd", "orange", "pale", "patient",
    "polite", "proud", "purple", "quick", "quiet", "rapid", "rough", "rusty", "salty", "scarlet", "shallow",
    "sharp", "silent", "silver", "slender", "smooth", "solemn", "spicy", "steady", "stormy", "sturdy", "sudden",
    "sunny", "tender", "tiny", "velvet", "warm", "weary", "wild", "wise", "witty", "wooden", "young", "zealous",
)  # fmt: skip
NOUNS = (
    "acorn", "anchor", "apple", "arrow", "badger", "barrel", "basket", "beacon", "bridge", "bucket", "button",
    "candle", "canyon", "carpet", "castle", "cellar", "chapel", "cherry", "clover", "compass", "copper", "cottage",
    "cricket", "curtain", "dagger", "desert", "donkey", "dragon", "engine", "falcon", "feather", "ferry", "fiddle",
    "forest", "fountain", "garden", "glacier", "hammer", "harbor", "hedge", "helmet", "island", "jacket", "kettle",
    "ladder", "lantern", "lemon", "lizard", "magnet", "maple", "marble", "meadow", "mirror", "monkey", "mountain",
    "needle", "ocean", "orchard", "otter", "parrot", "pebble", "pencil", "pepper", "pillow", "pirate", "planet",
    "puzzle", "rabbit", "raven", "ribbon", "river", "saddle", "sailor", "shadow", "spider", "temple", "thunder",
    "tiger", "trumpet", "tunnel", "turtle", "valley", "violin", "walnut", "whistle", "window", "winter", "wizard",
)  # fmt: skip
