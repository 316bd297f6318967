"""Why channels stay: every reason with what it means and what would free them, in one table.

docs/pins.md is generated from it. A rule of one's own may give any text for a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = {
    "wanted": "What the network is for",
    "layers": "Layers",
    "sizes": "Sizes and positions in the forward's code",
    "joined": "Where values meet",
    "values": "Where values decide",
    "unknown": "What channelcut does not know",
}


@dataclass(frozen=True)
class Reason:
    """One reason: what a pin shows, what to do about it, what it means, and the family that it is listed in."""

    text: str
    remedy: str
    meaning: str
    family: str

    def __str__(self) -> str:
        return self.text


_NO_TABLES = "make the tensor a parameter, or compute it from the value that it is combined with"
_OWN_AXIS = "move the layer before the reshape, so that channels lie along one axis"
_CHUNK = "select channels by chunk or split, or by a layer of their own"

OUTPUT = Reason(
    "network output",
    "outputs keep their shape, because that is what the network is for; where their reader does not count the "
    "channels, name the output in prunable_outputs (--prunable-output)",
    "The forward returns a value with these channels.",
    "wanted",
)
EXCLUDED = Reason(
    "excluded",
    "take the name out of exclude (--exclude)",
    "You asked that this layer keeps its output width, or these channels are coupled to such a layer.",
    "wanted",
)
COMPUTED_WEIGHT = Reason(
    "the weight is computed, not a parameter",
    "fuse first: store the weight that the forward computes (the model's own fuse, merge or switch_to_deploy, "
    "torch.nn.utils.parametrize.remove_parametrizations), or keep what it is made of as parameters and buffers",
    "The layer's weight is made by the forward, of the input, of a tensor that is neither parameter nor buffer, or by "
    "an op that mixes its rows or columns (a decomposition, an orthogonal parametrisation): no stored axis is cut.",
    "layers",
)
COMPUTED_TABLE = Reason(
    "the table of an embedding is computed, not a parameter",
    "store the table as a parameter",
    "The columns of an embedding's table are its channels, and this table is made by the forward.",
    "layers",
)
MIXES_OTHER_AXIS = Reason(
    "the layer mixes another axis than the one the channels lie along",
    _OWN_AXIS,
    "A convolution or linear layer reads a value whose channels lie along several axes, or along another one.",
    "layers",
)
NORM_OTHER_AXIS = Reason(
    "the norm's parameters lie along another axis than the channels",
    _OWN_AXIS,
    "A norm has one number for each position of an axis that is not the channels'.",
    "layers",
)
NORM_OF_FIXED = Reason(
    "scales the norm of a value that cannot lose channels",
    "let the layer before the norm lose channels, or make the scale a parameter of its own",
    "A computed scale or shift of a norm has one number for each channel, and the normalised value keeps all of them.",
    "layers",
)
NORM_SEVERAL_AXES = Reason(
    "a layer norm over several axes",
    "normalise over the channel axis alone",
    "The statistics are over channels and positions together.",
    "layers",
)
COMPUTED_WEIGHT_NORM = Reason(
    "a weight norm of a computed weight",
    "remove the weight norm before pruning (torch.nn.utils.remove_weight_norm)",
    "The direction or length of a normalised weight is no parameter, or is normalised along another axis.",
    "layers",
)
GROUPED_FIXED = Reason(
    "a grouped convolution reads or gives channels that stay",
    "free the other channels of the group, or let every group lose as many (grouped='offsets')",
    "All inputs and outputs of one group of a grouped convolution go together, and one of them cannot go.",
    "layers",
)
RECURRENT_COMPUTED = Reason(
    "a recurrent layer of computed weights, or over channels along another axis",
    "give the layer parameters of its own, and its input as (time, batch, channels)",
    "The units of a recurrent layer are found from its stored weights.",
    "layers",
)
STATE_OTHER_AXIS = Reason(
    "the first state of a recurrent layer has its channels along another axis than the layer",
    "give the state as (layers, batch, units)",
    "A state that the layer starts from has to lose the units that the layer loses.",
    "layers",
)
FIXED_STATE = Reason(
    "a recurrent layer starts from a state that cannot lose units",
    "start from zeros, or compute the state by a layer",
    "The state that the layer starts from is a tensor of a fixed size.",
    "layers",
)
SHARED_FIXED = Reason(
    "a parameter that is also used as a fixed tensor",
    "use a parameter of its own in the other place",
    "The same parameter is also read in a way that needs all of its elements.",
    "layers",
)
SHARED_WITH_FIXED = Reason(
    "a shared parameter reads a value that cannot lose channels",
    "give the two layers parameters of their own",
    "Two layers share a parameter, and the other one reads or gives channels that stay.",
    "layers",
)
HARD_CODED_WIDTH = Reason(
    "the forward hard-codes this width",
    "compute the width from a tensor's shape in the forward instead of a stored number",
    "With fewer channels the forward fails, or computes with other numbers or sizes: the probe has run it.",
    "sizes",
)
HARD_CODED_POSITION = Reason(
    "positions along the channels are hard-coded",
    _CHUNK,
    "The code picks, rolls or writes channels by fixed positions.",
    "sizes",
)
NUMBER_OF_WIDTH = Reason(
    "the forward computes with a number that follows this width",
    "keep the number itself as an attribute (self.scale = c ** -0.5) instead of computing it from the width",
    "A factor or another number depends on the width, so that fewer channels would compute something else.",
    "sizes",
)
SIZE_OF_WIDTH = Reason(
    "a size in the forward's code depends on this width",
    "take the size from the tensor's own shape (x.shape), or leave it to -1",
    "A view, split or slice is called with a number that would be wrong with fewer channels.",
    "sizes",
)
MULTIPLE_OF_WIDTH = Reason(
    "the forward asks for a multiple of a number, which only all of these channels are",
    "choose a wider layer, or take the assertion (c % 32 == 0) out of the forward",
    "The forward divides the width and needs nothing left over, and no smaller width of these channels does that.",
    "sizes",
)
COUNTS_A_PART = Reason(
    "a size in the code counts only some of these channels",
    "take the size from the tensor's own shape (x.shape), or leave it to -1",
    "A size given in the forward's code follows a part of the channels that are removed together.",
    "sizes",
)
UNEQUAL_PIECES = Reason(
    "divided into unequal pieces",
    "split by sizes, or divide a width that the pieces divide",
    "chunk or tensor_split makes pieces of different sizes out of this width.",
    "sizes",
)
SAME_COUNT = Reason(
    "these parts must keep the same number of channels",
    "free the part that cannot lose any: it has a pin of its own",
    "Pieces of a chunk, heads, or groups of a norm stay equal in number; where one of them has to stay, all do.",
    "sizes",
)
ONE_CHANNEL = Reason(
    "the only channel of its kind",
    "nothing needs to be done: a layer keeps one channel at least",
    "A layer gives one channel, and there is none beside it that could go instead.",
    "sizes",
)
ALL_TOGETHER = Reason(
    "all channels would have to go together",
    "give the layers that join them (grouped convolutions, additions of different pieces) widths of their own; "
    "`channelcut explain` names the layers",
    "Through grouped convolutions, additions and concatenations every channel here is coupled to every other one, so "
    "that none can go without all.",
    "sizes",
)
NO_COMMON_STEP = Reason(
    "parts that must keep equal shares have no common divisor",
    "choose widths that the pieces divide evenly, such as a multiple of 32",
    "Pieces of 7 and 15 channels that keep the same share can keep all or nothing. Where chunks make them, a "
    "narrower network may tell what each keeps; here it does not.",
    "sizes",
)
LEFT_OVER = Reason(
    "left over at the end of a part",
    "choose widths that the pieces divide evenly, such as a multiple of 32",
    "Pieces of 7 and 15 channels go in seven steps of one and of two; the fifteenth stays.",
    "sizes",
)
ORDER = Reason(
    "channels would come out of order",
    "take sizes from the tensor's own shape, and give pieces that are joined later the same layer",
    "Parts that may lose different channels are reshaped or transposed together here: what is left would not line up.",
    "sizes",
)
FIXED_TENSOR = Reason(
    "combined with a fixed tensor",
    _NO_TABLES,
    "An element-wise op combines the channels with a tensor of the same width that cannot lose any.",
    "joined",
)
ONE_FOR_ALL = Reason(
    "one channel that meets all channels of another value",
    "nothing needs to be done: the channels that it meets are free of it, and a layer of one channel has none to lose",
    "A gate or an offset in space has one channel, and every channel of the value that it is combined with reads it.",
    "joined",
)
CONCATENATED_FIXED = Reason(
    "concatenated with a fixed tensor",
    _NO_TABLES,
    "Along another axis than the channels, a tensor that cannot lose channels is joined to these.",
    "joined",
)
STACKED_FIXED = Reason(
    "stacked with a fixed tensor",
    _NO_TABLES,
    "Stacked values lose the same channels, and one of them cannot lose any.",
    "joined",
)
CONTRACTED_FIXED = Reason(
    "multiplied with a fixed matrix",
    "make the matrix a parameter of a linear layer",
    "A matrix product sums over these channels with a tensor that cannot lose any.",
    "joined",
)
FIXED_HEAD = Reason(
    "a head of an attention is shared with a fixed tensor",
    "compute queries, keys and values by layers",
    "Whole heads go from queries, keys and values together, and one of these is fixed.",
    "joined",
)
WRITTEN_OVER = Reason(
    "written over by a fixed tensor",
    _NO_TABLES,
    "The forward writes a tensor that cannot lose channels into these.",
    "joined",
)
SEVERAL_AXES = Reason(
    "combined with a parameter of several axes",
    "let the parameter have one axis for the channels and one element along the others",
    "A parameter such as a position embedding varies along more axes than the channels'.",
    "joined",
)
PRODUCT_AXES = Reason(
    "channels lie along several axes of a matrix product",
    "reshape so that channels lie along one axis of the product",
    "A product of two values contracts or keeps an axis along which only some channels change.",
    "joined",
)
OUTER_PRODUCT = Reason(
    "the outer product of two sets of channels",
    "sum over one of them by a layer of its own",
    "Both sides of a matrix product keep channels of their own; those of the left one stay.",
    "joined",
)
ALONG_SPACE = Reason(
    "channels lie along an axis of positions",
    _OWN_AXIS,
    "A pooling, resizing or window op works along an axis that channels vary along.",
    "joined",
)
CROPPED = Reason(
    "channels cropped or reflected",
    "pad channels with a constant, or by a layer of their own",
    "Padding along the channels takes some away or repeats them.",
    "joined",
)
STRIDES = Reason(
    "read through strides",
    "use a view, permute or slice",
    "as_strided reads memory by position.",
    "joined",
)
OVER_CHANNELS = Reason(
    "reduced over the channels",
    "reduce over positions instead, or by a layer (a 1x1 convolution sums channels with weights)",
    "A maximum, sum or norm over the channels would change when some are gone.",
    "values",
)
DECIDE_ABOUT_OTHERS = Reason(
    "every channel decides about the others",
    "put the softmax, sort or search behind a layer that ends these channels",
    "A softmax, sort, cumulative sum or search along the channels.",
    "values",
)
INDEXED = Reason(
    "indexed by a tensor",
    "keep the positions in a buffer (register_buffer) that is read for nothing else, or select by chunk, split or "
    "slices",
    "Channels are picked by positions that the forward computes, or that have another use.",
    "values",
)
PICKED = Reason(
    "picked by positions that go by themselves",
    "nothing needs to be done: what reads the picked channels loses positions instead; where each channel is picked "
    "once and no groups follow, both sides go together",
    "A buffer picks channels so often, or so unevenly among groups, that none of them could go with its positions.",
    "values",
)
TRIANGLE = Reason(
    "a triangle of channels",
    "mask positions instead of channels",
    "triu or tril keeps a part of a matrix of channels.",
    "values",
)
RANDOM = Reason(
    "drawn at random, a number for each channel",
    "draw one number for all channels, or take the random part out of the model that is pruned",
    "Fewer channels would draw other random numbers, so that nothing could be compared.",
    "values",
)
AS_NUMBER = Reason(
    "read as a number",
    "reduce to one number over positions and channels by a layer first",
    "The forward reads one number out of a tensor of channels.",
    "values",
)
ATTENTION_MASK = Reason(
    "the mask of an attention",
    "compute the mask without channels, or add it to the products by hand",
    "A mask is added to the products of queries and keys, which have no channels.",
    "values",
)
DEFAULT_SCALE = Reason(
    "the default scale of attention follows the key width",
    "pass scale= explicitly",
    "Without scale=, attention divides by the root of the key width, which would change.",
    "values",
)
VALUES_DECIDE = Reason(
    "read where values decide how many values there are",
    "keep suppression and thresholds out of the model that is pruned, and run them on its outputs",
    "An op such as nonzero, a boolean mask or nms follows, whose output size depends on values.",
    "values",
)
NO_RULE = Reason(
    "an op without a rule",
    "register a rule for {op} (see docs/rules.md)",
    "channelcut does not guess what an op does to channels.",
    "unknown",
)
RULE_SAYS = Reason(
    "a rule of the op says so",
    "see the rule of {op}",
    "A rule that was registered for the op pins without a remedy of its own.",
    "unknown",
)

REASONS: tuple[Reason, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Reason))


def page() -> str:
    """docs/pins.md: a section for each family, a row for each reason."""
    parts = [
        "# Pins\n\nWritten by `python -m channelcut.core.reasons > docs/pins.md`; a test compares it with the table. "
        "A pin says why channels stay, where that was decided (op, module, `file.py:line`), and what would free them.\n"
    ]
    for family, title in FAMILIES.items():
        rows = [f"| {r.text} | {r.meaning} | {r.remedy} |" for r in REASONS if r.family == family]
        head = [f"## {title}\n", "| reason | what it means | what to do |", "|---|---|---|"]
        parts.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  the page itself
