package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echo is a service with a unary method and a stream that answers each message as it comes.
var echo = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Once", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := &wrapperspb.StringValue{}
		if err := decode(in); err != nil {
			return nil, err
		}
		if in.Value == "fail" {
			return nil, status.Error(codes.AlreadyExists, "twice")
		}
		return in, grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "yes"))
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := &wrapperspb.StringValue{}
			if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
	}}},
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&echo, nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	w := start(t, Options{}, web(map[string]Backend{"grpc": {Protocol: BackendH2C, Endpoints: []Endpoint{{netip.MustParseAddrPort(l.Addr().String())}}}},
		Route{Matches: []Match{{Path: GRPCMethod("test.Echo", "", false)}}, Backends: to("grpc")}))
	conn, err := grpc.NewClient(w.Addr("web").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	in, out := &wrapperspb.StringValue{Value: "hello"}, &wrapperspb.StringValue{}
	var trailer metadata.MD
	if err := conn.Invoke(ctx, "/test.Echo/Once", in, out, grpc.Trailer(&trailer)); err != nil || out.Value != "hello" || len(trailer["x-trailer"]) != 1 {
		t.Errorf("unary: %v, %v, trailer %v", out, err, trailer)
	}
	in.Value = "fail"
	if err := conn.Invoke(ctx, "/test.Echo/Once", in, out); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a failing call: %v", err)
	}
	if err := conn.Invoke(ctx, "/test.Other/Once", in, out); status.Code(err) != codes.Unimplemented {
		t.Errorf("a call without a route: %v", err)
	}
	stream, err := conn.NewStream(ctx, &echo.Streams[0], "/test.Echo/Stream")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		// Each must come back before the next is sent.
		if err := stream.SendMsg(&wrapperspb.StringValue{Value: text}); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(out); err != nil || out.Value != text {
			t.Fatalf("the stream gave %v, %v; want %s", out, err, text)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(out); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream: %v", err)
	}
}
