// Package kubernetes checks the Kubernetes examples against Kubernetes' own
// types: a field that is unknown, misspelt, in a wrong place or of a wrong kind
// is an error, as it is for an API server.
package kubernetes

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

func TestTheExamplesAreOfKubernetesSchema(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decode := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode
	files, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	objects := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range bytes.Split(content, []byte("\n---\n")) {
			object, kind, err := decode(document, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			objects++
			t.Logf("%s: %s %T", filepath.Base(file), kind.Kind, object)
		}
	}
	if objects == 0 {
		t.Error("nothing was checked")
	}
	// The check can fail.
	if _, _, err := decode([]byte("apiVersion: v1\nkind: Pod\nspec: {container: []}\n"), &schema.GroupVersionKind{}, nil); err == nil {
		t.Error("a misspelt field is not noticed")
	}
}
