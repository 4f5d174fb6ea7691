"""Drivers for engines that step a simulation themselves: each hands structures to a calculator or takes its forces."""
