//go:build !linux

package main

import (
	"errors"
	"time"
)

func measureLoad(int, []uint16, time.Duration) (loadFunc, error) {
	return nil, errors.New("only known how to on Linux")
}
