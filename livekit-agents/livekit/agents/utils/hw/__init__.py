"""How much of the machine this process has, and how busy it is."""

from .cpu import CGroupV2CPUMonitor, CPUMonitor, DefaultCPUMonitor, get_cpu_monitor

__all__ = ["CGroupV2CPUMonitor", "CPUMonitor", "DefaultCPUMonitor", "get_cpu_monitor"]
