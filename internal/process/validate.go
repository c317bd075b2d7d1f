package process

import (
	"reflect"
	"runtime"

	"github.com/caddyserver/caddy/v2"
)

// IsValidating reports whether Caddy only validates a config ("caddy validate",
// "caddy adapt --validate"). It runs the modules' Provision then as for a start,
// and does not say so.
func IsValidating() bool {
	validate := runtime.FuncForPC(reflect.ValueOf(caddy.Validate).Pointer()).Name()
	var callers [64]uintptr
	for skip := 0; ; {
		n := runtime.Callers(skip, callers[:])
		if n == 0 {
			return false
		}
		for frames := runtime.CallersFrames(callers[:n]); ; {
			frame, more := frames.Next()
			if frame.Function == validate {
				return true
			}
			if !more {
				break
			}
		}
		skip += n
	}
}
