"""Doctor: looks at a host and says what each thing found means for PandaStack, and how to mend it.

It changes nothing that outlives it. Everything is tried for real where that is cheap (a clone, a namespace,
a tap, a firewall table, a guest loop), since "the file exists" has proven to be the wrong question.
"""

from pandastackd.doctor.finding import Finding, Status
from pandastackd.doctor.report import doctor_command
from pandastackd.doctor.run import run_doctor

__all__ = ["Finding", "Status", "doctor_command", "run_doctor"]
