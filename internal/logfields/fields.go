// Package logfields keeps the fields of a logger until an entry is written, and
// then shows requests without what may be a token or a key.
package logfields

import (
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Fields are the fields that were added to a logger, not yet encoded.
type Fields struct {
	added []zapcore.Field
	few   [3]zapcore.Field // room for what reverse_proxy adds for each request
}

// Added are the fields.
func (f *Fields) Added() []zapcore.Field { return f.added }

func (f *Fields) add(field zapcore.Field) {
	if f.added == nil {
		f.added = f.few[:0]
	}
	f.added = append(f.added, field)
}

// The methods below implement zapcore.ObjectEncoder.

// AddArray keeps a field of the logger.
func (f *Fields) AddArray(key string, value zapcore.ArrayMarshaler) error {
	f.add(zap.Array(key, value))
	return nil
}

// AddObject keeps a field of the logger.
func (f *Fields) AddObject(key string, value zapcore.ObjectMarshaler) error {
	f.add(zap.Object(key, value))
	return nil
}

// AddReflected keeps a field of the logger.
func (f *Fields) AddReflected(key string, value any) error {
	f.add(zap.Reflect(key, value))
	return nil
}

// AddBinary keeps a copy: whoever logs bytes may use their buffer again.
func (f *Fields) AddBinary(key string, value []byte) { f.add(zap.Binary(key, slices.Clone(value))) }

// AddByteString keeps a copy, as AddBinary does.
func (f *Fields) AddByteString(key string, value []byte) {
	f.add(zap.ByteString(key, slices.Clone(value)))
}

// AddBool keeps a field of the logger.
func (f *Fields) AddBool(key string, value bool) { f.add(zap.Bool(key, value)) }

// AddComplex128 keeps a field of the logger.
func (f *Fields) AddComplex128(key string, value complex128) { f.add(zap.Complex128(key, value)) }

// AddComplex64 keeps a field of the logger.
func (f *Fields) AddComplex64(key string, value complex64) { f.add(zap.Complex64(key, value)) }

// AddDuration keeps a field of the logger.
func (f *Fields) AddDuration(key string, value time.Duration) { f.add(zap.Duration(key, value)) }

// AddFloat64 keeps a field of the logger.
func (f *Fields) AddFloat64(key string, value float64) { f.add(zap.Float64(key, value)) }

// AddFloat32 keeps a field of the logger.
func (f *Fields) AddFloat32(key string, value float32) { f.add(zap.Float32(key, value)) }

// AddInt keeps a field of the logger.
func (f *Fields) AddInt(key string, value int) { f.add(zap.Int(key, value)) }

// AddInt64 keeps a field of the logger.
func (f *Fields) AddInt64(key string, value int64) { f.add(zap.Int64(key, value)) }

// AddInt32 keeps a field of the logger.
func (f *Fields) AddInt32(key string, value int32) { f.add(zap.Int32(key, value)) }

// AddInt16 keeps a field of the logger.
func (f *Fields) AddInt16(key string, value int16) { f.add(zap.Int16(key, value)) }

// AddInt8 keeps a field of the logger.
func (f *Fields) AddInt8(key string, value int8) { f.add(zap.Int8(key, value)) }

// AddString keeps a field of the logger.
func (f *Fields) AddString(key, value string) { f.add(zap.String(key, value)) }

// AddTime keeps a field of the logger.
func (f *Fields) AddTime(key string, value time.Time) { f.add(zap.Time(key, value)) }

// AddUint keeps a field of the logger.
func (f *Fields) AddUint(key string, value uint) { f.add(zap.Uint(key, value)) }

// AddUint64 keeps a field of the logger.
func (f *Fields) AddUint64(key string, value uint64) { f.add(zap.Uint64(key, value)) }

// AddUint32 keeps a field of the logger.
func (f *Fields) AddUint32(key string, value uint32) { f.add(zap.Uint32(key, value)) }

// AddUint16 keeps a field of the logger.
func (f *Fields) AddUint16(key string, value uint16) { f.add(zap.Uint16(key, value)) }

// AddUint8 keeps a field of the logger.
func (f *Fields) AddUint8(key string, value uint8) { f.add(zap.Uint8(key, value)) }

// AddUintptr keeps a field of the logger.
func (f *Fields) AddUintptr(key string, value uintptr) { f.add(zap.Uintptr(key, value)) }

// OpenNamespace puts the fields that follow under key.
func (f *Fields) OpenNamespace(key string) { f.add(zap.Namespace(key)) }

// Interface guard
var _ zapcore.ObjectEncoder = (*Fields)(nil)
