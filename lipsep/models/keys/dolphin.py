"""The released Dolphin's key names."""

from __future__ import annotations

import re

from lipsep.models.released import ReleasedFile, Rules, register_released, renamed_once

# Our name -> the published name, applied in this order. Pointwise convolutions are linear maps here: the shapes of the
# two agree once dimensions of size 1 are left out.
_HEAT: Rules = (
    (r"unused_k_conv", "to_k.0"),
    (r"conv_in", "dwconv"),
    (r"conv_out", "out_linear"),
    (r"project", "linear"),
    (r"norm", "out_norm"),
)
_ATTENTION: Rules = (
    (r"norm", "layer_norm"),
    (r"to_(q|k|v|out)", r"linear_\1"),
    (r"scale\.gain", "Layer_scale.layer_scale"),
)
_FFN: Rules = (
    (r"norm", "net1.0"),
    (r"expand", "net1.1"),
    (r"conv", "depthwise"),
    (r"contract", "net2.2"),
    (r"scale\.gain", "Layer_scale.layer_scale"),
)
_LOCAL: Rules = (
    (r"norm_in", "GN1"),
    (r"large_conv", "dw_conv_1d"),
    (r"small_conv", "linear3.1"),
    (r"norm_out", "GN2"),
    (r"scale\.gain", "Layer_scale.layer_scale"),
)
_SPACE_ATTENTION: Rules = (
    (r"0\.memory", "0.fn.mem_kv"),
    (r"0\.norm\.gain", "0.fn.norm.gamma"),
    (r"0\.to_qkv", "0.fn.to_qkv.0"),
    (r"1\.norm\.gain", "1.fn.norm.gamma"),
    (r"1\.expand", "1.fn.net.0"),
    (r"1\.contract", "1.fn.net.2"),
)
_RESIDUAL: Rules = (
    (r"gate\.attend", "fn.4.to_k"),
    (r"gate\.squeeze", "fn.4.net.0"),
    (r"gate\.excite", "fn.4.net.2"),
    (r"pointwise", "fn.2"),
    (r"conv", "fn.0"),
)


def released_key(name: str) -> str:
    """The released key of one of our state-dict keys."""
    head, _, rest = name.partition(".")
    if head == "video_encoder":
        return "video_encoder." + _video_encoder(rest)
    if head == "separator":
        return "separator." + _separator(rest)
    if head == "visual_fusion":
        return "video_blocks." + _visual_fusion(rest)
    for ours, theirs in (
        (r"video_projection\.", "pre_v1."),
        (r"audio_encoder\.conv\.", "audio_encoder.conv1d."),
        (r"audio_projection\.linear\.", "feature_projector.conv1d."),
        (r"audio_projection\.norm\.", "feature_projector.norm."),
        (r"av_fusion\.audio_key\.", "modalfuse.key_embed."),
        (r"av_fusion\.audio_value\.", "modalfuse.value_embed."),
        (r"av_fusion\.video_gate\.", "modalfuse.resize."),
        (r"av_fusion\.video_attention\.", "modalfuse.attention_embed."),
        (r"output_layer\.expand\.", "out_layer.end_conv1x1.0."),
        (r"output_layer\.mix\.", "out_layer.end_conv1x1.2."),
        (r"audio_decoder\.conv\.", "audio_decoder."),
    ):
        name = re.sub("^" + ours, theirs, name)
    return re.sub(r"^(modalfuse\.\w+)\.(weight|bias)$", r"\1.conv.\2", name)


def _top_down(name: str) -> str:
    part, index, rest = name.split(".", 2)
    part = {"fine": "local_embedding", "coarse": "global_embedding", "coarse_gate": "global_act"}[part]
    return f"{part}.conv.{renamed_once(rest, _HEAT)}" if index == "0" else f"{part}.norm.{rest}"


def _gla_block(index: int, name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "coarse_attention":
        rest = re.sub(r"^gate_norm\.", "block.linear.0.", re.sub(r"^gate\.", "block.linear.1.", rest))
        if rest.startswith("attention."):
            rest = "block.self_attn." + renamed_once(rest.removeprefix("attention."), _ATTENTION)
        return f"g_block_{index + 1}.block.DU_MHSA.{rest}"
    if part == "heat_attention":
        rest = "heat1d." + renamed_once(rest[5:], _HEAT) if rest.startswith("heat.") else renamed_once(rest, _LOCAL)
        return f"l_block_{index + 1}.block.CLA.{rest}"
    return f"{'g' if part == 'global_ffn' else 'l'}_block_{index + 1}.block.FFN.{renamed_once(rest, _FFN)}"


def _separator(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "relative_positions":
        return "pos_emb.pe_k." + rest
    if part == "global_attention":
        return "bottleneck_G.0." + renamed_once(rest, _ATTENTION)
    if part == "global_ffn":
        return "bottleneck_G.1." + renamed_once(rest, _FFN)
    layer, _, rest = rest.partition(".")
    if part == "skip_fusions":
        return f"loc_glo_fus.{layer}.{_top_down(rest)}"
    kind, _, rest = rest.partition(".")
    if kind == "fusion":
        return f"simple_fusion.{layer}.{_top_down(rest)}"
    stage = f"{'enc' if part == 'encoder' else 'dec'}_stages.{layer}."
    if kind == "down":
        return stage + "downconv." + renamed_once(rest, ((r"conv", "down_conv"), (r"norm", "GN")))
    block, _, rest = rest.partition(".")
    return stage + _gla_block(int(block), rest)


def _visual_fusion(name: str) -> str:
    part, _, rest = name.partition(".")
    if part in ("fusions", "descent"):
        index, _, rest = rest.partition(".")
        return f"{'loc_glo_fus' if part == 'fusions' else 'last_layer'}.{index}.{_top_down(rest)}"
    if part == "top":
        rules = (
            (r"linear_in", "fc1.conv"),
            (r"norm_in", "fc1.norm"),
            (r"conv", "dwconv"),
            (r"linear_out", "fc2.conv"),
            (r"norm_out", "fc2.norm"),
        )
        return "globalatt." + renamed_once(rest, rules)
    return renamed_once(name, ((r"project", "proj_1x1"), (r"scales", "spp_dw"), (r"linear_out", "res_conv")))


def _video_encoder(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "quantizer":
        book = "layers.0._codebook."
        rules = (
            (r"codebook", book + "embed"),
            (r"code_sum", book + "embed_avg"),
            (r"code_count", book + "cluster_size"),
            (r"started", book + "initted"),
        )
        return "semantic_model.quantizer." + renamed_once(rest, rules)
    model = "semantic_model." if part == "semantic" else "recon_model."
    if not rest.startswith("layers."):
        return model + re.sub(r"^norm\.", "encoder_layers.9.1.", rest)
    _, layer, rest = rest.split(".", 2)
    stage = f"{model}encoder_layers.{layer}."
    if layer == "5":
        rest = re.sub(r"^0\.(to_\w+)", r"0.fn.attn.\1.0", rest)
    if layer == "8":
        rest = re.sub(r"^0\.to_out", "0.fn.to_out.1", rest)
    if layer in "58":
        return stage + renamed_once(rest, _SPACE_ATTENTION)
    if layer in "136" and rest.startswith("conv."):
        return stage + rest
    unit, dot, inner = rest.partition(".") if rest[0].isdigit() else ("", "", rest)
    return stage + unit + dot + renamed_once(inner, _RESIDUAL)


def is_released(keys: set[str]) -> bool:
    """Whether these are keys of the published code (and not ours)."""
    return any(key.startswith(("pre_v1.", "modalfuse.", "video_blocks.")) for key in keys)


register_released("dolphin", ReleasedFile("weights", released_key))
