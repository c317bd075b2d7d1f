//go:build unix && !linux

package main

import (
	"errors"
	"time"
)

// processes tell nothing here: without /proc, CPU time, memory and threads
// stay out of the tables.
type processes struct{}

var errNoProc = errors.New("there is no /proc here")

func processesOf(int) processes { return processes{} }

func (processes) cpu() (time.Duration, error) { return 0, errNoProc }

func (processes) memory() (now, peak int64, err error) { return 0, 0, errNoProc }

func (processes) threads() (int, error) { return 0, errNoProc }
