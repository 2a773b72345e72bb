#!/usr/bin/env bash
# Export in fp32, quantize to int8, and compare the two. The exit code is the check's: 1 when accuracy drops too much.
#
#     quantize_and_check.sh [FOLDER]          FOLDER, out/quantize by default, gets bundles, clips and report
set -euo pipefail
folder=${1:-out/quantize}

etam-edge export --output "$folder/fp32" --overwrite

# Two clips with ground truth come with the package. With your own clips, see docs/check_accuracy.md for the layouts.
python -c "import sys, pathlib, etam_edge.media as media; media.write_clips(pathlib.Path(sys.argv[1]))" "$folder/clips"

# Calibrate on the drawn clip alone, so that the check also sees frames that the scales do not come from.
# fp32 for what is not int8: for a CPU. For a GPU leave the option out, which means fp16.
etam-edge quantize "$folder/fp32" --float-precision fp32 --output "$folder/int8" --overwrite \
    --calibration "$folder/clips/crossing" --prompts "$folder/clips/crossing.json"

etam-edge check "$folder/int8" --reference "$folder/fp32" --clips "$folder/clips" --max-drop 1.0 \
    --output "$folder/check" ${MAX_FRAMES:+--max-frames "$MAX_FRAMES"}
