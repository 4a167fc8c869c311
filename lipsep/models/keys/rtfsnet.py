"""The key names of RTFS-Net's released weights, and of the layers that Swift-Net took over from it."""

from __future__ import annotations

from lipsep.models.released import Rules, renamed

PATH: Rules = (
    (r"norm\.weight", "norm.gamma"),
    (r"norm\.bias", "norm.beta"),
    (r"spread", "linear"),
    (r"rnn\.layers\.(\d+)\.carry_weight\.0", r"rnn.rnn_lst.\1.weight_c"),
    (r"rnn\.layers\.(\d+)\.(weight|bias)\.0", r"rnn.rnn_lst.\1.\2"),
)
ATTENTION: Rules = (
    (r"norm\.weight", "attn_concat_proj.norm.gamma"),
    (r"norm\.bias", "attn_concat_proj.norm.beta"),
    (r"out", "attn_concat_proj.conv"),
    (r"act", "attn_concat_proj.act"),
    (r"queries", "Queries"),
    (r"keys", "Keys"),
    (r"values", "Values"),
    (r"(\w+)\.(weight|bias)\.(\d+)", r"\1.\3.conv.\2"),
    (r"(\w+)\.slope\.(\d+)", r"\1.\2.act.weight"),
    (r"(\w+)\.gain\.(\d+)", r"\1.\2.norm.gamma"),
    (r"(\w+)\.offset\.(\d+)", r"\1.\2.norm.beta"),
)
_INJECTION: Rules = ((r"fine", "local_embedding"), (r"content", "global_embedding"), (r"gate", "global_gate"))
_VIDEO_ATTENTION: Rules = ((r"norm_in", "norm1"), (r"norm_out", "norm2"))
_FEED_FORWARD: Rules = (
    (r"expand", "encoder.full_layer.2"),
    (r"norm_in", "encoder.full_layer.3.norm"),
    (r"conv", "refiner.full_layer.2"),
    (r"contract", "decoder.full_layer.2"),
    (r"norm_out", "decoder.full_layer.3.norm"),
)


def block_rules(conv: str, norm: str, act: str) -> Rules:
    """The layers of a block around its recurrence and attention, where a convolution, its norm and its activation are
    released under these names."""
    return (
        (r"gateway\.act", f"gateway.{act}"),
        (r"gateway\.(weight|bias)", rf"gateway.{conv}.\1"),
        (r"project\.", f"projection.{conv}."),
        (r"norm", f"projection.{norm}"),
        (r"act", f"projection.{act}"),
        (r"out\.", f"residual_conv.{conv}."),
        (r"scales", "downsample_layers"),
        (r"injections", "fusion_layers"),
        (r"ascent", "concat_layers"),
    )


_BLOCK: Rules = (
    *block_rules("full_layer.2", "full_layer.3", "full_layer.4"),
    (r"((?:downsample|fusion|concat)_layers.*)\.0\.(\w+)$", r"\1.full_layer.2.\2"),
    (r"((?:downsample|fusion|concat)_layers.*)\.1\.(\w+)$", r"\1.full_layer.3.\2"),
)
_FUSION: Rules = (
    (r"(key|value)\.0", r"\1_embed.full_layer.2"),
    (r"(key|value)\.1", r"\1_embed.full_layer.3"),
    (r"attention_norm", "attention_embed.full_layer.3.norm"),
    (r"attention\.", "attention_embed.full_layer.2."),
    (r"gate_norm", "resize.full_layer.3.norm"),
    (r"gate\.", "resize.full_layer.2."),
)
_OUTSIDE: Rules = (
    (r"encoder", "encoder.conv.full_layer.2"),
    (r"bottleneck_norm", "audio_bottleneck.full_layer.0.norm"),
    (r"bottleneck", "audio_bottleneck.full_layer.2"),
    (r"mask_act", "mask_generator.mask_generator.0"),
    (r"mask\.", "mask_generator.mask_generator.1.full_layer.2."),
    (r"decoder", "decoder.decoder"),
)


def injection_key(name: str) -> str:
    """With the released names of the layers inside an injection, where `name` is one of its."""
    head, _, rest = name.partition(".")
    if head not in ("fusion_layers", "concat_layers"):
        return name
    index, _, rest = rest.partition(".")
    return f"{head}.{index}.{renamed(rest, _INJECTION)}"


def separator_key(name: str) -> str | None:
    """The released key of one of RTFSNet's state-dict keys; None for the video encoder's."""
    head, _, rest = name.partition(".")
    if head == "video_encoder":
        return None
    if head == "fusion":
        return "refinement_module.crossmodal_fusion.fusion_module.audio_lstm." + renamed(rest, _FUSION)
    if head in ("audio_block", "video_block"):
        return f"refinement_module.{head[:5]}_net.blocks.{_block_key(rest, video=head == 'video_block')}"
    return renamed(name, _OUTSIDE)


def _block_key(name: str, video: bool) -> str:
    if name.startswith("mix."):
        _, index, rest = name.split(".", 2)
        if video:
            part, rules = (("MHSA", _VIDEO_ATTENTION), ("FFN", _FEED_FORWARD))[int(index)]
            return f"globalatt.0.{part}.{renamed(rest, rules)}"
        return f"globalatt.{index}.{renamed(rest, ATTENTION if index == '2' else PATH)}"
    name = injection_key(renamed(name, _BLOCK))
    if not video and ".full_layer.3." in name:  # a global norm, where the video block has a batch norm
        name = name.replace(".full_layer.3.", ".full_layer.3.norm.")
    return name
