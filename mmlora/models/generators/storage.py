"""What a generator takes to store, against the LoRAs that it stands for."""

from typing import Any

from .generator import LoRAGenerator

MEGABYTE = 1e6


def storage(generator: LoRAGenerator, num_loras: int) -> dict[str, Any]:
    """Return sizes in bytes, in float32 for LoRAs, and from how many LoRAs on the generator is the smaller.

    Args:
        generator: Any.
        num_loras: That it was trained on.

    Returns:
        ``generator`` (its state), ``lora`` (one, without what is shared), ``shared`` (A of all), ``loras`` (the bank),
        ``break_even``.
    """
    size = sum(value.numel() * value.element_size() for value in generator.state_dict().values())
    shared = generator.codec.full_spec.length - generator.spec.length if generator.codec.factors == 'B' else 0
    lora = 4 * generator.spec.length
    return dict(generator=size, lora=lora, shared=4 * shared, loras=num_loras * lora + 4 * shared,
                break_even=max(0, size - 4 * shared) // lora + 1)


def storage_line(generator: LoRAGenerator, num_loras: int) -> str:
    """Return :func:`storage` as a sentence."""
    found = {name: value if name == 'break_even' else value / MEGABYTE
             for name, value in storage(generator, num_loras).items()}
    shared = f' and {found["shared"]:.3f} MB of A that they share' if found['shared'] else ''
    bank = f'; the {num_loras} of the bank take {found["loras"]:.3f} MB' if num_loras else ''
    return (f'{generator.about} takes {found["generator"]:.3f} MB, a LoRA {found["lora"]:.3f} MB{shared}{bank}. The '
            f'generator is the smaller from {found["break_even"]} LoRAs on.')
