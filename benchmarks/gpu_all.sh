#!/usr/bin/env bash
# What needs a GPU, in one command of about five minutes: tests, the training step, recording, a bank of ten, training without storing, verbs.
#   benchmarks/gpu_all.sh                       all parts; a table in markdown on stdout, logs in a folder that the last line names
#   benchmarks/gpu_all.sh step bank             these parts
#   benchmarks/gpu_all.sh --device cpu          small sizes on a CPU, to try the script
# $PYTHON is the interpreter (python). A part that takes longer than its time, or fails, is named below the table; the exit status is then 1.
set -u
cd "$(dirname "$0")/.."
device=cuda
if [ "${1:-}" = --device ]; then device=$2; shift 2; fi
python=${PYTHON:-python}
parts=${*:-tests step recording bank live verbs}
out=$(mktemp -d)
export COLUMNS=400 PYTHONPATH=. # tables without wrapped lines

part() { # name, seconds, command
  local name=$1 most=$2 start=$SECONDS
  shift 2
  case " $parts " in *" $name "*) ;; *) return ;; esac
  timeout -k 5 "$most" "$@" >"$out/$name.log" 2>&1 </dev/null
  echo "$? $((SECONDS - start)) $most" >"$out/$name.status"
  echo "$name: $((SECONDS - start)) s" >&2
}

if [ "$device" = cuda ]; then
  part tests 60 "$python" -m pytest -q -rs -m gpu -n 4 -p no:cacheprovider -o filterwarnings=default
  part step 60 "$python" benchmarks/bench_step.py --device cuda --rounds 7
  part recording 60 "$python" benchmarks/recording_cost.py --device cuda --quick --rounds 1
  part bank 50 "$python" benchmarks/bench_bank.py --device cuda
  part live 30 "$python" benchmarks/bench_live.py --device cuda --n 2000 --vits ViT-S/14 ViT-L/14
  part verbs 40 "$python" benchmarks/bench_device.py --device cuda
else
  part tests 60 "$python" -m pytest -q -rs -m gpu -n 0 -p no:cacheprovider tests/ops
  part step 60 "$python" benchmarks/bench_step.py --quick --rounds 1 --only topk
  part recording 60 "$python" benchmarks/recording_cost.py --n 16 --rounds 1
  part bank 60 "$python" benchmarks/bench_bank.py --quick --members 2
  part live 60 "$python" benchmarks/bench_live.py --quick --n 32 --batch 128
  part verbs 60 "$python" benchmarks/bench_device.py --quick
fi
"$python" benchmarks/gpu_table.py "$out" "$device" | tee "$out/results.md"
status=${PIPESTATUS[0]}
echo "logs and results.md: $out" >&2
exit "$status"
