"""The specification's snippets about training run word for word after the documented preamble.

The preamble's problem is made smaller, and loops that only take long are made shorter; each change is made
to exactly one place of the text.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = re.search(
    r"```python\n(.*?)```",
    (Path(__file__).resolve().parent.parent / "docs" / "specification.md").read_text(),
    re.DOTALL,
)

QUICK_START_1 = """
from camac_dra.environment import Environment
from camac_dra.models import DQNAgent
from camac_dra.training import Trainer
from camac_dra.utils import ConfigLoader

# Load configuration
config = ConfigLoader.load_config('configs/default.yaml')

# Create environment
env = Environment(config['environment'])

# Create model
model = DQNAgent(
    state_size=config['model']['state_size'],
    action_size=config['model']['action_size']
)

# Create trainer
trainer = Trainer(env, model, config)

# Run training
results = trainer.train(num_episodes=100, num_steps=1000)
"""

QUICK_START_3 = """
# Evaluate trained model
eval_metrics = trainer.evaluate(num_episodes=20)
print(f"Average Reward: {eval_metrics['avg_reward']:.2f}")
print(f"Success Rate: {eval_metrics['success_rate']:.2%}")

# Export results
trainer.metrics_tracker.export('results/metrics.json')
"""

EXAMPLE_1 = """
from camac_dra.environment import Environment, ResourcePool
from camac_dra.utils import ConfigLoader, Logger

# Configure resource pool
resource_config = {
    'cpu': 1000,
    'memory': 500,
    'bandwidth': 10000
}

# Create environment
config = ConfigLoader.load_config('configs/cloud.yaml')
env = Environment(config)
logger = Logger('cloud_allocation')

# Training loop
for episode in range(100):
    obs = env.reset()
    done = False
    episode_reward = 0
    
    while not done:
        # Agents select actions
        actions = {
            agent_id: agent.select_action(obs[agent_id])
            for agent_id in obs.keys()
        }
        
        # Execute actions
        obs, rewards, dones, info = env.step(actions)
        episode_reward += sum(rewards.values())
        done = all(dones.values())
    
    if episode % 10 == 0:
        logger.info(f"Episode {episode}: Reward={episode_reward:.2f}")
"""  # noqa: W293  (word for word)

EXAMPLE_3 = """
from camac_dra.environment import Environment
from camac_dra.training import Trainer, MetricsTracker

# Custom reward function
def custom_reward(agent_id, allocation, resources):
    efficiency = allocation / resources
    fairness = 1.0 - np.std([allocation])
    return 0.7 * efficiency + 0.3 * fairness

# Create environment with custom reward
config = ConfigLoader.load_config('configs/default.yaml')
config['environment']['reward_fn'] = custom_reward
env = Environment(config)

# Train with metrics tracking
trainer = Trainer(env, model, config)
metrics = trainer.train(num_episodes=50, num_steps=500)

# Analyze results
tracker = MetricsTracker()
for metric_name, values in metrics.items():
    tracker.record(metric_name, np.mean(values))

print(tracker.get_summary())
"""

SMALLER = {
    "num_agents: 10": "num_agents: 4",
    "max_episode_length: 1000": "max_episode_length: 12",
    "range(100)": "range(11)",
}
SNIPPETS = {
    "quick starts 1 and 3": QUICK_START_1 + QUICK_START_3,
    "example 1": EXAMPLE_1,
    "example 3": EXAMPLE_3,
}


def run(code: str, folder: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Run the preamble and a snippet, made smaller, in an empty folder."""
    assert PREAMBLE is not None
    whole = PREAMBLE[1] + code
    for old, new in SMALLER.items():
        assert whole.count(old) <= 1
        whole = whole.replace(old, new)
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", whole]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet_runs(name: str, tmp_path: Path, root: Path) -> None:
    done = run(SNIPPETS[name], tmp_path, root)
    assert done.returncode == 0, done.stderr
    if name == "quick starts 1 and 3":
        assert re.search(
            r"^Average Reward: -?\d+\.\d\d\nSuccess Rate: \d+\.\d\d%$", done.stdout, re.MULTILINE
        )
        training = json.loads((tmp_path / "results" / "metrics.json").read_text())["training"]
        assert len(training["episode_rewards"]) == len(training["episode_losses"]) == 100
        assert 0.0 <= training["success_rate"] <= 1.0
    elif name == "example 1":
        assert re.findall(r"Episode (\d+): Reward=-?\d+\.\d\d", done.stdout + done.stderr) == ["0", "10"]
    else:
        summary = eval(done.stdout, {"nan": float("nan")})
        assert summary["episode_rewards/count"] == summary["success_rate/count"] == 1.0
        assert summary["episode_losses/mean"] > 0.0


def test_a_snippet_that_goes_wrong_is_seen(tmp_path: Path, root: Path) -> None:
    done = run("trainer.train(1)", tmp_path, root)
    assert done.returncode == 1
    assert "name 'trainer' is not defined" in done.stderr
