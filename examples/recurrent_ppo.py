"""The inner loop of recurrent PPO, as is and with one call of the LSTM: `reset=` begins a row anew at each episode.

An agent sees 1 or −1 at the first step of an episode and has to name it at the last one, 3 to 8 steps later, so
it has to remember. Rollouts of many environments are long and hold many episodes. On torch.nn.LSTM the update goes step
by step, since the state has to be cleared wherever an episode ends; `bptt.nn.LSTM` takes the whole rollout at once.

Source of the algorithm: Schulman and others, Proximal policy optimization algorithms, 2017.
"""

import copy
import time

import torch
from torch import Tensor

import bptt

ENVIRONMENTS, STEPS, HIDDEN, UPDATES, EPOCHS, MINIBATCHES = 16, 128, 64, 8, 6, 4


class Environments:
    """(B, 2) observations: what to remember, and whether it is the last step; reward 1 for naming it there, else −1."""

    def __init__(self) -> None:
        self.left = torch.zeros(ENVIRONMENTS, dtype=torch.long)
        self.cue = torch.zeros(ENVIRONMENTS)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next observation, the reward of these actions, and where a new episode begins."""
        reward = torch.where(self.left == 1, 2.0 * (actions == (self.cue > 0).long()) - 1, 0.0)
        self.left = self.left - 1
        begins = self.left < 1
        self.left = torch.where(begins, torch.randint(4, 10, (ENVIRONMENTS,)), self.left)
        self.cue = torch.where(begins, torch.randn(ENVIRONMENTS).sign(), self.cue)
        seen = torch.where(begins, self.cue, 0.0)
        return torch.stack([seen, (self.left == 1).float()], -1), reward, begins


class Agent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(2, HIDDEN)
        self.policy, self.value = torch.nn.Linear(HIDDEN, 2), torch.nn.Linear(HIDDEN, 1)

    def forward(
        self, x: Tensor, begins: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Log-probabilities of actions and values of all steps (T, B, ·), and the state after the last."""
        if isinstance(self.lstm, bptt.nn.LSTM):
            output, state = self.lstm(x, state, reset=begins)
        else:
            outputs = []
            for x_t, new in zip(x, begins, strict=True):
                keep = 1.0 - new.float()[None, :, None]
                output, state = self.lstm(x_t[None], (keep * state[0], keep * state[1]))
                outputs.append(output)
            output = torch.cat(outputs)
        return torch.log_softmax(self.policy(output), -1), self.value(output)[..., 0], state


def advantages(rewards: Tensor, values: Tensor, begins: Tensor, last: Tensor, discount: float = 0.99) -> Tensor:
    """Generalised advantage estimates with λ 0.95; `begins` is of the step after each reward."""
    found, total = torch.zeros_like(rewards), torch.zeros(ENVIRONMENTS)
    for t in reversed(range(STEPS)):
        goes_on = 1.0 - begins[t].float()
        following = values[t + 1] if t + 1 < STEPS else last
        total = rewards[t] + discount * goes_on * following - values[t] + discount * 0.95 * goes_on * total
        found[t] = total
    return found


def updated(
    agent: Agent, optimizer: torch.optim.Optimizer, rollout: dict[str, Tensor], first: tuple[Tensor, Tensor]
) -> float:
    """One epoch over minibatches of environments, each with its whole rollout. Returns the last loss."""
    loss = torch.zeros(())
    for rows in torch.randperm(ENVIRONMENTS).chunk(MINIBATCHES):
        part = {name: array[:, rows] for name, array in rollout.items()}
        log_p, values, _ = agent(part["x"], part["begins"], (first[0][:, rows], first[1][:, rows]))
        ratio = (log_p.gather(-1, part["actions"][..., None])[..., 0] - part["log_p"]).exp()
        gain = (part["advantages"] - part["advantages"].mean()) / (part["advantages"].std() + 1e-8)
        policy_loss = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        value_loss = (values - part["returns"]).square().mean()
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        loss = policy_loss + 0.5 * value_loss - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    return loss.item()


torch.manual_seed(0)
agent = Agent()
agents = {
    "torch.nn.LSTM, step by step": copy.deepcopy(agent),
    "bptt, one call with reset=": bptt.convert(agent, quiet=True),
}
optimizers = {name: torch.optim.Adam(agent.parameters(), 0.01) for name, agent in agents.items()}
environments, seconds, losses = Environments(), dict.fromkeys(agents, 0.0), dict.fromkeys(agents, 0.0)
x, _, begins = environments.step(torch.zeros(ENVIRONMENTS, dtype=torch.long))
state = torch.zeros(1, ENVIRONMENTS, HIDDEN), torch.zeros(1, ENVIRONMENTS, HIDDEN)
for update in range(UPDATES):
    first, steps = state, []
    with torch.no_grad():
        for _ in range(STEPS):
            log_p, value, state = agent(x[None], begins[None], state)
            actions = torch.distributions.Categorical(logits=log_p[0]).sample()
            seen, started = x, begins
            x, reward, begins = environments.step(actions)
            p = log_p[0].gather(-1, actions[:, None])[:, 0]
            steps.append((seen, started, actions, p, value[0], reward, begins))
        _, last, _ = agent(x[None], begins[None], state)
    seen, started, actions, p, values, rewards, ended = (torch.stack(of_step) for of_step in zip(*steps, strict=True))
    gain = advantages(rewards, values, ended, last[0])
    rollout = {
        "x": seen,
        "begins": started,
        "actions": actions,
        "log_p": p,
        "advantages": gain,
        "returns": gain + values,
    }
    for name, each in agents.items():
        torch.manual_seed(update)
        start = time.perf_counter()
        for _ in range(EPOCHS):
            losses[name] = updated(each, optimizers[name], rollout, first)
        seconds[name] += time.perf_counter() - start if update else 0.0
    answered = rewards != 0
    if update % 2:
        right = float((rewards[answered] > 0).float().mean())
        print(f"update {update + 1:2}: {right:.0%} of {int(answered.sum())} episodes end with the right answer")
for name in agents:
    print(f"{name:28} loss {losses[name]:+.4f}  {1e3 * seconds[name] / (UPDATES - 1):.0f} ms an update")
print("{:.1f} times as fast".format(seconds["torch.nn.LSTM, step by step"] / seconds["bptt, one call with reset="]))
