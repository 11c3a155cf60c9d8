package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// serveAPI is what the API server itself calls in a cluster: at /mutate a webhook
// that labels what is created, and below /apis/ an aggregated API group with
// nothing in it. The certificate is in /cert.
func serveAPI(ctx context.Context, addr string) error {
	if addr == "" {
		addr = ":8443"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mutate", mutate)
	mux.HandleFunc("GET /apis/tool.skiff.test/v1", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, map[string]any{
			"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "tool.skiff.test/v1",
			"resources": []any{map[string]any{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": []string{"list"}}},
		})
	})
	mux.HandleFunc("GET /apis/tool.skiff.test/v1/things", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, map[string]any{"kind": "ThingList", "apiVersion": "tool.skiff.test/v1", "metadata": map[string]any{}, "items": []any{}})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.NotFound(w, r)
	})
	s := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	fmt.Println("listening on", addr)
	go func() {
		<-ctx.Done()
		_ = s.Close()
	}()
	return s.ListenAndServeTLS("/cert/tls.crt", "/cert/tls.key")
}

func mutate(w http.ResponseWriter, r *http.Request) {
	var review struct {
		Request struct {
			UID    string `json:"uid"`
			Object struct {
				Metadata struct {
					Labels map[string]string `json:"labels"`
				} `json:"metadata"`
			} `json:"object"`
		} `json:"request"`
	}
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	labels := map[string]string{"tool": "was-here"}
	for k, v := range review.Request.Object.Metadata.Labels {
		labels[k] = v
	}
	patch, err := json.Marshal([]any{map[string]any{"op": "add", "path": "/metadata/labels", "value": labels}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, map[string]any{
		"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
		"response": map[string]any{
			"uid": review.Request.UID, "allowed": true,
			"patchType": "JSONPatch", "patch": base64.StdEncoding.EncodeToString(patch),
		},
	})
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // Who asked may have gone.
}
