"""Saved workflows hold node ids, input names and widget order: they may grow at the end, no more.

A workflow stores a node's widget values as a list in the order of its inputs, so a new widget is
appended last and none is removed or moved. Add a line here when you add an input; never change one.
"""

from __future__ import annotations

import asyncio
from types import ModuleType

FROZEN: dict[str, dict[str, list[str]]] = {
    "ThroughlineARSegmentSampler": {
        "inputs": [
            "model",
            "vae",
            "script",
            "negative_prompt",
            "width",
            "height",
            "seconds_per_shot",
            "fps",
            "unmarked_shots",
            "segment_frames",
            "tail_latent_frames",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "run_name",
            "retakes",
            "when_queued",
            "clip",
            "positive",
            "negative",
            "start_image",
            "start_latent",
            "storyboard",
            "memory",
            "plan",
            "sigmas",
            "sampler",
            "clip_vision_output",
            "low_noise_model",
            "switch_sigma",
            "loras",
            "memory_strength",
            "keyframes",
            "keyframe_use",
            "shot_prompts",
        ],
        "outputs": ["TL_RUN", "LATENT", "IMAGE"],
    },
    "ThroughlineSegment": {
        "inputs": [
            "model",
            "vae",
            "positive",
            "negative",
            "width",
            "height",
            "segment_frames",
            "tail_latent_frames",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "previous",
            "start_image",
            "sigmas",
            "sampler",
            "clip_vision_output",
            "low_noise_model",
            "switch_sigma",
            "memory",
            "memory_strength",
        ],
        "outputs": ["LATENT", "LATENT"],
    },
    "ThroughlineStoryboard": {"inputs": ["script", "fps"], "outputs": ["TL_STORYBOARD"]},
    "ThroughlineExportStoryboard": {
        "inputs": ["storyboard", "storyboard_form"],
        "outputs": ["STRING", "STRING"],
    },
    "ThroughlineAssembleVideo": {
        "inputs": [
            "run",
            "vae",
            "fps",
            "format",
            "crf",
            "filename_prefix",
            "colour_match",
            "colour_match_strength",
            "overlap_blend",
            "contact_frames",
        ],
        "outputs": ["VIDEO", "IMAGE"],
    },
    "ThroughlineDriftReport": {"inputs": ["run", "vae"], "outputs": ["STRING", "IMAGE", "STRING"]},
    "ThroughlineLoadMemoryLoRA": {
        "inputs": ["model", "lora_name", "strength", "encoder"],
        "outputs": ["MODEL", "STRING"],
    },
    "ThroughlineShotLoRA": {
        "inputs": ["lora_name", "name", "strength", "used_in", "low_noise_lora", "loras"],
        "outputs": ["TL_LORAS"],
    },
    "ThroughlineKeyframesFromImages": {
        "inputs": ["storyboard", "images", "shot_ids"],
        "outputs": ["TL_KEYFRAMES"],
    },
    "ThroughlineRecall": {
        "inputs": [
            "storyboard",
            "shot",
            "how_many",
            "keyframes",
            "images",
            "captions",
            "clip",
            "clip_vision",
            "also_recall",
            "drift_gate",
            "drift_threshold",
            "weight_picture",
            "weight_text",
            "weight_characters",
            "weight_location",
            "weight_recency",
        ],
        "outputs": ["IMAGE", "STRING", "STRING"],
    },
    "ThroughlineLoadDemoModels": {"inputs": [], "outputs": ["MODEL", "CLIP", "VAE", "IMAGE"]},
    "ThroughlineLoadMemoryEncoder": {
        "inputs": ["encoder_name"],
        "outputs": ["TL_ENCODER", "STRING"],
    },
    "ThroughlineMemoryEncoder": {
        "inputs": [
            "model",
            "vae",
            "form",
            "rate",
            "recent_frames",
            "window",
            "pin",
            "captions",
            "width",
            "height",
            "encoder",
            "second_encoder",
            "clip",
            "history",
            "references",
            "run",
        ],
        "outputs": ["TL_MEMORY", "STRING"],
    },
    "ThroughlineApplyMemory": {
        "inputs": ["model", "memory", "strength", "shots", "positive", "latent"],
        "outputs": ["MODEL"],
    },
    "ThroughlineMemoryPreview": {
        "inputs": ["memory", "steps", "seed", "model", "clip"],
        "outputs": ["IMAGE", "STRING"],
    },
    "ThroughlineMemoryBudget": {
        "inputs": [
            "model",
            "width",
            "height",
            "fps",
            "seconds_per_segment",
            "seconds_of_history",
            "card",
            "vae",
            "storyboard",
        ],
        "outputs": ["STRING", "STRING", "INT"],
    },
    "ThroughlineGoldenMemPack": {
        "inputs": [
            "model",
            "vae",
            "positive",
            "width",
            "height",
            "group_size",
            "levels",
            "first_level",
            "least_side",
            "max_references",
            "pinned",
            "reference_mode",
            "left_over",
            "negative",
            "images",
            "keyframes",
            "base_short",
            "ratio",
            "reference_noise",
            "seed",
        ],
        "outputs": ["MODEL", "CONDITIONING", "CONDITIONING", "IMAGE", "STRING"],
    },
}


def test_ids_inputs_and_outputs_are_what_workflows_hold(comfy: ModuleType) -> None:
    import throughline

    async def classes() -> list:
        return await (await throughline.comfy_entrypoint()).get_node_list()

    found = {}
    for node in asyncio.run(classes()):
        info = node.GET_NODE_INFO_V1()
        inputs = [*info["input"].get("required", {}), *info["input"].get("optional", {})]
        found[node.GET_SCHEMA().node_id] = {"inputs": inputs, "outputs": list(info["output"])}
    assert found == FROZEN
