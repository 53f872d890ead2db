"""The process of a group of a hub, killed where it would write the member 00001."""

import os
import signal

from mmlora.apis import hub_job, hub_members

write = hub_members.write_lora_folder


def write_or_die(path, *args):
    if path.name == '00001':
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *args)


hub_members.write_lora_folder = write_or_die
hub_job.main()
