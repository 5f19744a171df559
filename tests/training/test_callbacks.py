"""What is shown while fine-tuning."""

from __future__ import annotations

import io

from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from text2sql.training.callbacks import ProgressCallback


def test_the_bar_fits_a_terminal_of_80_columns(tmp_path):
    shown = io.StringIO()
    callback = ProgressCallback()
    callback.console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    args, control = TrainingArguments(output_dir=str(tmp_path)), TrainerControl()
    state = TrainerState(max_steps=1015, global_step=0, is_world_process_zero=True)
    callback.on_train_begin(args, state, control)
    state.global_step = 1010
    callback.on_step_end(args, state, control)
    callback.on_log(args, state, control, logs={"eval_loss": 0.0221})
    callback.on_log(args, state, control, logs={"loss": 0.0371, "tokens_per_second": 3921.0})
    assert callback.bar is not None
    callback.bar.refresh()
    callback.close()
    assert "1010/1015 loss 0.037  3,921 tokens/s  val 0.022 " in shown.getvalue()
    assert "…" not in shown.getvalue()
