"""Groups log lines with drain3 and prints, for each way of using it, the number of the group of every line.

usage: drain_templates.py FILE   (one line of log per line)
Prints one line of JSON: {"defaults": [...], "masked": [...]}
"""

import json
import sys

from drain3 import TemplateMiner
from drain3.masking import MaskingInstruction
from drain3.template_miner_config import TemplateMinerConfig

MASKS = [
    (r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", "EMAIL"),
    (r"[a-z]+://[^\s\"'<>]+", "URL"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b", "IP"),
    (r"(?<!\S)/[\w./-]+", "PATH"),
    (r"\b[a-z]{2,10}_[A-Za-z0-9]*\d[A-Za-z0-9]*\b", "ID"),
    (r"\b0x[0-9a-fA-F]+\b", "HEX"),
    (r"(?<![\w.])[-+]?\d+(\.\d+)?", "NUM"),
]


def groups(lines, masked):
    config = TemplateMinerConfig()
    config.load("")
    config.profiling_enabled = False
    if masked:
        config.masking_instructions = [MaskingInstruction(pattern, name) for pattern, name in MASKS]
    miner = TemplateMiner(config=config)
    return [miner.add_log_message(line)["cluster_id"] for line in lines]


with open(sys.argv[1], encoding="utf-8") as file:
    lines = file.read().splitlines()
print(json.dumps({"defaults": groups(lines, False), "masked": groups(lines, True)}))
